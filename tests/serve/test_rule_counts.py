"""Counts of a rule, beside those of a selection."""

from collections import Counter

import pytest
from made_workspace import Workspace

from rasterloom.filtering.selection import select
from rasterloom.recipe.filtering import Dedup, Keep
from rasterloom.serve.index import Index
from rasterloom.serve.rule_counts import count_rule, sliders

RULES = (
    "quality < 9",
    "quality between 4 and 6 and min_side >= 90 and caption_length > 3",
    "quality < 5 or aspect > 1 and quality < 8",
    "flatness > 0.05 and caption like '%disc%' and null",
    "true",
)


@pytest.mark.parametrize("rule", RULES)
def test_the_counts_are_those_of_a_selection_without_duplicates(
    workspace: Workspace, index: Index, rule: str
) -> None:
    images = workspace.corpus.read("images").drop_columns(["image", "more"])
    keep = Keep(rule=rule, dedup=Dedup(exact=False, phash_radius=None))
    scores = workspace.corpus.read("scores")
    reasons = Counter(select(images, scores, keep)["reason"].to_pylist())
    found = count_rule(index, rule)
    assert found.passing == reasons.pop("kept", 0)
    assert found.failed == sum(reasons.pop(reason) for reason in list(reasons) if reason.startswith("failed"))
    assert {f"rule: {part}": rows for part, rows in found.stopped if rows} == reasons


def test_a_comparison_with_a_number_has_a_slider(index: Index) -> None:
    found = sliders(
        index, "quality >= 4.5 and caption like 'a%'  and MIN_SIDE<96 and quality between 1 and 2"
    )
    assert [(s.before, s.number) for s in found] == [
        ("quality >= ", "4.5"),
        ("caption like 'a%'", ""),
        ("MIN_SIDE<", "96"),
        ("quality between 1 and 2", ""),
    ]
    assert (found[0].low, found[0].high) == (3, 9.5) and found[0].step == 0.01
    (beyond,) = sliders(index, "quality < -40")
    assert beyond.low <= -40 and beyond.high >= 9.5
