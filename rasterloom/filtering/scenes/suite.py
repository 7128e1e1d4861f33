"""Captions that the drawn data leaves out, and a suite of them."""

import itertools

import numpy as np
from numpy.random import Generator

from rasterloom.filtering.scenes.grammar import COLOURS, RELATIONS, SHAPES, SIZES, Caption, Group

ONE_OF = 3  # compositions, one is held out
RELATED = 60  # prompts of the suite with a relation; 30 ask for one shape and 30 for several


def is_held_out(caption: Caption) -> bool:
    """Tell a caption whose composition no scene of the training data has.

    A third is held out, so that every colour has been seen with every shape, in two of three sizes or
    two of three numbers. Of two groups it is the pair that is held out, whatever the relation.
    """
    marks = [list(COLOURS).index(g.colour) + SHAPES.index(g.shape) for g in caption.groups]
    if len(marks) == 2:
        return sum(marks) % ONE_OF == 0
    group = caption.groups[0]
    size = list(SIZES).index(group.size)
    return (marks[0] + size + (2 * group.number if group.number > 1 else 0)) % ONE_OF == 0


def scene_prompts(seed: int = 0) -> list[str]:
    """The suite's 120 prompts, all held out: 30 of one shape, 30 of several, 60 of two groups."""
    rng = np.random.default_rng(seed)
    groups = [*_groups(1, list(SIZES)), *_groups(2, ["small", ""]), *_groups(3, ["small"])]
    prompts = [str(group) for group in groups if is_held_out(Caption((group,)))]
    related: dict[str, None] = {}
    while len(related) < RELATED:
        caption = _relation(rng, RELATIONS[len(related) % len(RELATIONS)])
        if is_held_out(caption):
            related.setdefault(str(caption))
    return prompts + list(related)


def _groups(number: int, sizes: list[str]) -> list[Group]:
    return [Group(number, *words) for words in itertools.product(sizes, COLOURS, SHAPES)]


def _relation(rng: Generator, relation: str) -> Caption:
    """Two groups in the shares that the drawn data has."""
    colours = rng.choice(list(COLOURS), 2, replace=False)
    groups = [
        Group(int(number), str(rng.choice(["small", ""])), str(colour), str(rng.choice(SHAPES)))
        for colour, number in zip(colours, rng.choice([1, 2], 2, p=[0.75, 0.25]), strict=True)
    ]
    return Caption((groups[0], groups[1]), relation)
