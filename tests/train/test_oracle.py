"""Drawn recipes, trained by the project and by the oracle: weights, rows, rates, shares and losses agree.

`make test` draws ten; RASTERLOOM_ORACLE_RECIPES draws more, RASTERLOOM_ORACLE_SEED others, and
RASTERLOOM_ORACLE_FIRST=N with one recipe repeats number N.
"""

import os

import pytest
from drawn_recipes import draw, write_checkpoint, write_table
from oracle_check import check

SEED = int(os.environ.get("RASTERLOOM_ORACLE_SEED", "1"))
FIRST = int(os.environ.get("RASTERLOOM_ORACLE_FIRST", "0"))
RECIPES = int(os.environ.get("RASTERLOOM_ORACLE_RECIPES", "10"))


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """A checkpoint to start from and two tables."""
    folder = tmp_path_factory.mktemp("oracle")
    return write_checkpoint(folder / "init"), [write_table(folder, table) for table in (0, 1)]


@pytest.mark.parametrize("number", range(FIRST, FIRST + RECIPES))
def test_a_drawn_recipe_trains_as_the_oracle_says(number, tmp_path, ground):
    drawn = draw(SEED, number)
    print(f"recipe {number} of seed {SEED}: {drawn}")
    check(drawn, tmp_path, ground)
