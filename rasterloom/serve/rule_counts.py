"""Counts of a keep rule, and sliders for its numbers."""

import math
import re
from dataclasses import dataclass

from rasterloom.filtering.rule import verdict_of
from rasterloom.serve.filters import check, parts_of
from rasterloom.serve.index import Index

STEPS = 200  # of a slider, at least
_COMPARED = re.compile(r"""(\s*"?(\w+)"?\s*(?:>=|<=|>|<)\s*)(-?\d+(?:\.\d+)?)(\s*)""")


@dataclass(frozen=True)
class RuleCounts:
    """Images by what a keep rule says of them. Duplicates are not looked for."""

    rule: str
    failed: int
    passing: int
    stopped: tuple[tuple[str, int], ...]
    """Parts of the rule, and the images that each is the first to stop."""


@dataclass(frozen=True)
class Slider:
    """Part of a keep rule. One that compares a column with a number can be moved."""

    before: str  # the whole part, where there is no number to move
    number: str = ""
    name: str = ""
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0


def count_rule(index: Index, rule: str) -> RuleCounts:
    """Count the images that a rule and each part of it stops.

    Raises:
        RecipeError: the rule cannot be used, or fails on an image.
    """
    check(rule, index)
    parts = parts_of(rule)
    rows = index.sql(f"SELECT {verdict_of(parts)} AS verdict, count(*) AS rows FROM entries GROUP BY ALL")
    counts = {row["verdict"]: row["rows"] for row in rows}
    stopped = tuple((" ".join(part.split()), counts.get(n, 0)) for n, part in enumerate(parts, 1))
    return RuleCounts(rule, counts.get(-1, 0), counts.get(0, 0), stopped)


def sliders(index: Index, rule: str) -> list[Slider]:
    """Return the parts of a rule, comparisons with a number as sliders."""
    return [_slider(index, part) for part in parts_of(rule)]


def _slider(index: Index, part: str) -> Slider:
    found = _COMPARED.fullmatch(part)
    bounds = index.bounds.get(found[2].lower()) if found else None
    if found is None or bounds is None:
        return Slider(part)
    number = float(found[3])
    low, high = min(bounds[0], number), max(bounds[1], number)
    step = 10.0 ** math.floor(math.log10((high - low) / STEPS)) if high > low else 1.0
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Slider(found[1], found[3], found[2], low, high, step)
