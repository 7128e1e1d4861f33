from pathlib import Path

import pytest

from rasterloom.recipe import load_recipe

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_recipe(path):
    assert load_recipe(path).sources


def test_the_examples_are_found():
    assert {"quickstart.yaml", "quickstart-small.yaml"} <= {path.name for path in EXAMPLES}
