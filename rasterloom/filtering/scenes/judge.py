"""Facts of a drawn scene's prompt that hold in an image.

There is one a skill, as in GenEval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rasterloom.filtering.scenes.grammar import Caption, Group, OutsideGrammarError, read_caption
from rasterloom.filtering.scenes.objects import Found, find_objects

SKILLS = ("single object", "two objects", "count", "colour", "size", "position")


@dataclass(frozen=True)
class Verdict:
    """Facts of a prompt, by skill, that hold or do not."""

    facts: dict[str, bool] = field(default_factory=dict)
    seen: tuple[Found, ...] = ()
    note: str = ""  # why there is no judgement

    @property
    def all_right(self) -> bool | None:
        """True if every fact holds; None without a judgement."""
        return all(self.facts.values()) if self.facts else None


def judge(image: NDArray[np.uint8], prompt: str) -> Verdict:
    """Judge an RGB image [h, w, 3] by a prompt.

    A prompt outside the grammar has no facts, and a note that says what the grammar is.
    """
    try:
        caption = read_caption(prompt)
    except OutsideGrammarError as error:
        return Verdict(note=str(error))
    seen = find_objects(image)
    return Verdict(facts_of(caption, seen), seen)


def facts_of(caption: Caption, seen: Sequence[Found]) -> dict[str, bool]:
    """Compare the objects of an image with a caption, by skill.

    An object belongs to the group whose colour it has, else to that whose shape it has. One that belongs
    to none spoils the count.
    """
    groups = caption.groups
    members: list[list[Found]] = [[] for _ in groups]
    for one in seen:
        likeness = [2 * (one.colour == g.colour) + (one.shape == g.shape) for g in groups]
        if len(groups) == 1 or max(likeness):
            members[likeness.index(max(likeness))].append(one)
    asked = list(zip(groups, members, strict=True))
    of_all = len(seen) == sum(group.number for group in groups)
    facts = {
        "single object" if len(groups) == 1 else "two objects": _all(asked, "shape"),
        "count": of_all and all(len(found) == group.number for group, found in asked),
        "colour": _all(asked, "colour"),
    }
    if any(group.size for group in groups):
        facts["size"] = _all([(g, found) for g, found in asked if g.size], "size")
    if caption.relation:
        facts["position"] = all(members) and _lies(caption.relation, members[0], members[1])
    return facts


def _all(asked: Sequence[tuple[Group, Sequence[Found]]], name: str) -> bool:
    """Tell that each group has members, all as its name says."""
    return all(
        found and all(getattr(one, name) == getattr(group, name) for one in found) for group, found in asked
    )


def _lies(relation: str, first: Sequence[Found], second: Sequence[Found]) -> bool:
    """Tell that the first objects lie so to the second.

    They are further along the axis than across it.
    """
    axis = 1 if relation in ("above", "below") else 0
    if relation in ("right of", "below"):
        first, second = second, first
    here, there = (np.mean([one.centre for one in some], axis=0) for some in (first, second))
    far = there - here
    gap = min(one.centre[axis] for one in second) - max(one.centre[axis] for one in first)
    return bool(gap > 0 and far[axis] > abs(far[1 - axis]))
