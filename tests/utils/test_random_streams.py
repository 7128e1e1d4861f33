"""Every draw of the system: what its stream depends on, that streams are independent, and no other exists."""

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest

from rasterloom.utils.random_streams import (
    DRAWS,
    stream_digest,
    stream_generator,
    stream_number,
    stream_share,
)

ROOT = Path(__file__).parents[2]
DRAWN = 4000
FAR = 4.5  # standard errors: one of a hundred thousand correct comparisons is as far off
BASE = {
    "seed": 3,
    "stage": 1,
    "part": 0,
    "pass": 2,
    "epoch": 1,
    "rank": 0,
    "step": 0,
    "number": 0,
    "reader": 0,
}


# Generators that decide no result.
NOT_A_RESULT = {
    "rasterloom/utils/random_streams.py": "makes the streams",
    "rasterloom/tokenize/crop.py": "two numbers from the seed of `crop`",
    "rasterloom/train/model/initialization.py": "torch's generator, seeded by `init`",
    "rasterloom/train/model/lora.py": "torch's generator, seeded by `adapters`",
    "rasterloom/train/trainer.py": "torch's generator, seeded by `dropout`",
    "rasterloom/train/checkpoint/saver.py": "torch's generator, restored or seeded by `dropout`",
    "rasterloom/train/model/packing_check.py": "a model that is tried and thrown away",
    "rasterloom/filtering/scenes/suite.py": "the prompts of a suite, which are always the same",
    "rasterloom/pipelines/progress/eta.py": "an estimate of the time left",
    "rasterloom/sources/fetch/backoff.py": "pauses between requests",
    "rasterloom/utils/retry.py": "pauses between requests",
}


def shares(name, **changed):
    """Draws in [0, 1): of many keys, or where the stream has no key, the first numbers of a generator."""
    draw = DRAWS[name]
    values = {**BASE, **changed}
    given = {("pass_" if f == "pass" else f): values[f] for f in draw.fields if f not in ("key", "image")}
    last = draw.fields[-1]
    if last in ("key", "image"):
        return np.array([stream_share(name, **given, **{last: f"{n:032x}"}) for n in range(DRAWN)])
    return stream_generator(name, **given).random(DRAWN)


def assert_independent(a, b, what):
    correlation = np.corrcoef(a, b)[0, 1]
    assert abs(correlation) < FAR / math.sqrt(len(a)), f"{what}: correlation {correlation:.3f}"
    both = ((a < 0.1) & (b < 0.1)).mean()  # the share dropped twice
    assert abs(both - 0.01) < FAR * math.sqrt(0.01 * 0.99 / len(a)), f"{what}: both in {both:.1%}"


def numeric(draw):
    return [field for field in draw.fields if field in BASE]


def table_in_the_docs():
    page = (ROOT / "docs/training.md").read_text()
    section = page.split("## Random draws\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {
        row[0].strip().strip("`"): (row[1].strip(), tuple(re.findall(r"`(\w+)`", row[2])), row[3].strip())
        for row in rows
    }


def test_the_docs_list_every_draw():
    expected = {draw.name: (draw.decides, draw.fields, draw.why) for draw in DRAWS.values()}
    assert table_in_the_docs() == expected


def test_each_draw_has_digests_of_its_own():
    assert len({draw.person for draw in DRAWS.values()}) == len(DRAWS)
    assert all(len(draw.person) <= 16 for draw in DRAWS.values())
    # Fields are joined by colons: one of free text comes last, so that no two tuples are one text.
    assert all(field in BASE for draw in DRAWS.values() for field in draw.fields[:-1])


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_is_even_and_depends_on_each_of_its_fields(name):
    draw = DRAWS[name]
    before = shares(name)
    assert np.array_equal(before, shares(name))
    assert abs(before.mean() - 0.5) < FAR * math.sqrt(1 / 12 / DRAWN)
    assert abs(before.var() - 1 / 12) < FAR * math.sqrt(1 / 180 / DRAWN)
    for field in numeric(draw):
        for value in (BASE[field] + 1, BASE[field] + 2, BASE[field] + 1000):
            assert_independent(before, shares(name, **{field: value}), f"{name} by {field}")
    for first in numeric(draw):  # no two fields are added up: neighbouring seeds share no stage
        for second in numeric(draw):
            if first != second:
                a = shares(name, **{first: BASE[first] + 1})
                b = shares(name, **{second: BASE[second] + 1})
                assert_independent(a, b, f"{name} by {first} and {second}")


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_is_independent_of_those_of_other_draws(name):
    mine = shares(name)
    for other in DRAWS:
        if other != name:
            assert_independent(mine, shares(other), f"{name} and {other}")


def test_a_draw_takes_its_own_fields_alone():
    with pytest.raises(TypeError, match="'adapters' depends on"):
        stream_number("adapters", seed=0)
    with pytest.raises(TypeError, match="'heldout' depends on"):
        stream_share("heldout", seed=0, image="a")


def test_tokens_of_earlier_versions_are_drawn_alike():
    """Crops, sizes in prompts and the order of rows: their tables would have to be made again."""
    assert stream_number("crop", seed=0, key="ab") == 0x495ABD2D8F26686A
    assert stream_digest("size", seed=1, key="ab").hex() == "19820befde32f2c5"
    assert stream_digest("pack", seed=2, key="ab").hex() == "7b9c00af25f7033f"


def generators(tree):
    """Lines that make or seed a generator of random numbers of their own."""
    made = {"default_rng", "manual_seed", "RandomState", "Generator", "fork_rng", "set_rng_state"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in made:
                yield node.lineno, name
        elif isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield node.lineno, "random"


def test_no_other_generator_decides_a_result():
    found = {}
    for file in sorted((ROOT / "rasterloom").rglob("*.py")):
        if lines := list(generators(ast.parse(file.read_text()))):
            found[str(file.relative_to(ROOT))] = lines
    assert set(found) == set(NOT_A_RESULT), found
