"""Lines of a recipe's fields."""

import pytest

from rasterloom.recipe.yaml_lines import Lines, line_of, named_in

TEXT = """\
corpus: demo
base: &base
  retries: 1
  per_host: 2
fetch:
  <<: *base
  retries: 3
sources:
  - path: a.csv
  - {path: b.csv,
     url: link}
score:
  - quality
  - clip:
      clip: folder
dedup:
  phash_radius: 4
train: {stages: [
  {target: 64},
  {target: 96}]}
"""


@pytest.mark.parametrize(
    ("loc", "line"),
    [
        (("corpus",), 1),
        (("fetch", "retries"), 7),
        (("fetch", "per_host"), 4),
        (("fetch", "max_side"), 5),
        (("sources", 1), 10),
        (("sources", 1, "url"), 11),
        (("sources", 7), 8),
        (("score", 1, "options", "clip"), 15),
        (("keep", "dedup", "phash_radius"), 17),
        (("train", "stages", 1, "target"), 20),
        (("tokenize", "codec"), None),
        ((), None),
    ],
)
def test_a_field_has_its_line_or_that_of_what_is_around_it(loc, line):
    assert Lines(TEXT).of(loc) == line


def test_a_section_beside_keep_stands_in_keep_as_well():
    loc = ("keep", "dedup", "exact")
    assert Lines("keep:\n  rule: a\n  dedup:\n    exact: no\n").of(loc) == 4
    assert Lines("keep: a\ndedup:\n  exact: no\n").of(loc) == 3


@pytest.mark.parametrize(
    ("message", "loc"),
    [
        ("train.stages[1].lr: takes a number", ("train", "stages", 1, "lr")),
        ("run.use_gpu is set, but Ray finds no GPU", ("run", "use_gpu")),
        ("keep: the rule is wrong", ("keep",)),
        ("run the steps first", ()),
        ("no recipe at x.yaml", ()),
    ],
)
def test_a_message_begins_with_its_field(message, loc):
    assert named_in(message) == loc


def test_the_line_of_a_message(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    assert line_of(path, "train.stages[1]: no") == 20
    assert line_of(path, "keep: dedup.phash_radius is odd") == 17
    assert line_of(path, "train/1-64: no") is None and line_of(tmp_path / "gone", "corpus: no") is None
