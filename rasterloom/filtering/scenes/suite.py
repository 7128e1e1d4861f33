"""Captions that the drawn data leaves out, and a suite of them."""

import itertools

import numpy as np
from numpy.random import Generator

from rasterloom.filtering.scenes.grammar import COLOURS, RELATIONS, SHAPES, SIZES, Caption, Group

RELATED = 60  # prompts of the suite with a relation; 15 ask for one shape and 45 for several


def is_held_out(caption: Caption) -> bool:
    """Tell a caption whose composition no scene of the training data has.

    Of each shape and size one colour is held out, and half of what there is in numbers, so that every colour
    has been seen with every shape. Of two groups it is a third of the pairs, whatever the relation.
    """
    marks = [list(COLOURS).index(g.colour) + SHAPES.index(g.shape) for g in caption.groups]
    if len(marks) == 2:
        return sum(marks) % 3 == 0
    group = caption.groups[0]
    size = list(SIZES).index(group.size)
    if group.number == 1:
        return (marks[0] + 2 * size + 1) % len(COLOURS) == 0
    return (marks[0] + size + group.number) % 2 == 0


def scene_prompts(seed: int = 0) -> list[str]:
    """The suite's 120 prompts, all held out: 15 of one shape, 45 of several, 60 of two groups."""
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
    """One shape and one of another colour, as in the drawn data."""
    colours = rng.choice(list(COLOURS), 2, replace=False)
    groups = [Group(1, str(rng.choice(["small", ""])), str(c), str(rng.choice(SHAPES))) for c in colours]
    return Caption((groups[0], groups[1]), relation)
