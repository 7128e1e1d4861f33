"""Renders the captioned scenes of the quickstart corpus: coloured shapes on plain backgrounds.

A scene depends only on its seed. Colour, size, number and position are in the caption, so that a model
trained on the scenes can be prompted for each of them. Captions, sizes and outlines are those of
rasterloom.filtering.scenes, whose judge says what an image of a scene shows; it also says which captions no
scene has, so that prompts are left that no model was trained on.

Diameters and places are whole cells: at a target of 128 a cell is one code of 8 x 8 pixels in every frame.
A shape therefore has the same codes at any position, which a tiny model can learn. A model must guess what
the caption omits, so there is one tone of background and few positions.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from rasterloom.filtering.scenes.grammar import (
    BACKGROUND,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Caption,
    Group,
    cell_of,
)
from rasterloom.filtering.scenes.outlines import mask_of
from rasterloom.filtering.scenes.suite import is_held_out

STORIES = {"one": 0.24, "several": 0.18, "relation": 0.58}  # shares; a relation takes the longest to learn
GRADIENTS = 0.05  # share of scenes whose background is not plain

LARGE_BESIDE = 0.35  # weight of two shapes of which one is large; others have 1
GAP = 2  # cells between shapes, 1 between three
MARGIN = 1  # cells kept free at each edge; a crop of 5:3 to 2:1 takes as much


@dataclass(frozen=True)
class Layout:
    """Frames of scenes, and how far their shapes lie from the middle.

    The frames are buckets of a target of 128, so that the codes of a shape are those of its drawing, not of a
    scaling. A model does not learn a ratio with few scenes.
    """

    frames: dict[tuple[int, int], float]  # (width, height): share
    farthest: int  # cells from the centre by which a scene may be moved, in steps of two


VARIED = Layout({(128, 128): 0.62, (160, 96): 0.18, (96, 160): 0.18, (192, 64): 0.01, (64, 192): 0.01}, 2)
CENTRED = Layout({(128, 128): 0.70, (160, 96): 0.14, (96, 160): 0.14, (192, 64): 0.01, (64, 192): 0.01}, 0)


@dataclass(frozen=True)
class Scene:
    """A rendered scene: an RGB image, its caption, and the colours and shapes that the caption names."""

    image: Image.Image
    caption: str
    colours: list[str]
    shapes: list[str]


def scenes(n: int, seed: int) -> Iterator[Scene]:
    """Renders `n` scenes one by one. Different seeds share no scene (for n up to a million)."""
    return (draw_scene(seed * 1_000_000 + i) for i in range(n))


def draw_scene(
    seed: int,
    size: tuple[int, int] | None = None,
    caption: Caption | None = None,
    layout: Layout = VARIED,
) -> Scene:
    """Render a seed's scene.

    `size` (width, height) and `caption` are the seed's own where they are not given.
    """
    rng = np.random.default_rng(seed)
    frame = _frame(rng, layout)
    canvas = _background(rng, *(size or frame))
    cell = cell_of(*canvas.size)
    room = [int(side / cell + 1e-6) - 2 * MARGIN for side in canvas.size]
    caption = caption or _story(rng, room)
    groups, relation = caption.groups, caption.relation
    for group, centres in zip(groups, _places(rng, room, groups, relation, layout.farthest), strict=True):
        for x, y in centres:
            middle = (canvas.width / 2 + x * cell, canvas.height / 2 + y * cell)
            _paint(canvas, group, middle, SIZES[group.size] * cell)
    return Scene(
        image=canvas,
        caption=str(caption),
        colours=[group.colour for group in groups],
        shapes=[group.shape for group in groups],
    )


def _frame(rng: Generator, layout: Layout) -> tuple[int, int]:
    return list(layout.frames)[rng.choice(len(layout.frames), p=list(layout.frames.values()))]


def _story(rng: Generator, room: list[int]) -> Caption:
    """Content of a scene: one shape, a few equal ones, or two in relation; none that is held out."""
    kind = str(rng.choice(list(STORIES), p=list(STORIES.values())))
    while is_held_out(caption := _caption(rng, kind, room)):
        pass
    return caption


def _caption(rng: Generator, kind: str, room: list[int]) -> Caption:
    if kind == "relation":
        colours = rng.choice(list(COLOURS), 2, replace=False)
        relation = str(rng.choice(RELATIONS))
        sizes = _sizes(rng, room, _axis(relation))
        groups = [_group(rng, str(colour), 1, [size]) for colour, size in zip(colours, sizes, strict=True)]
        return Caption((groups[0], groups[1]), relation)
    number = 1 if kind == "one" else int(rng.integers(2, 4))
    sizes = ["small", "", "large"][: 4 - number]
    return Caption((_group(rng, str(rng.choice(list(COLOURS))), number, sizes),))


def _sizes(rng: Generator, room: list[int], axis: int) -> list[str]:
    """Sizes of two shapes that have room beside each other."""
    pairs = [
        pair
        for pair in itertools.product(SIZES, repeat=2)
        if sum(SIZES[size] for size in pair) + GAP <= room[axis]
        and max(SIZES[size] for size in pair) <= room[1 - axis]
    ]
    weights = np.array([LARGE_BESIDE if "large" in pair else 1.0 for pair in pairs])
    return list(pairs[rng.choice(len(pairs), p=weights / weights.sum())])


def _axis(relation: str) -> int:
    return 1 if relation in ("above", "below") else 0


def _group(rng: Generator, colour: str, number: int, sizes: list[str]) -> Group:
    return Group(number, str(rng.choice(sizes)), colour, str(rng.choice(SHAPES)))


def _places(
    rng: Generator, room: list[int], groups: Sequence[Group], relation: str, farthest: int
) -> list[list[tuple[int, int]]]:
    """Centres (x, y) of all shapes, in cells from the middle. `room` is how many there are each way.

    Two groups lie along the axis of their relation, the shapes of a group across it. Shapes without a
    relation lie along the long side.
    """
    axis = _axis(relation) if relation else int(room[0] >= room[1])
    ordered = groups if relation in ("left of", "above", "") else groups[::-1]
    extents = [SIZES[group.size] for group in ordered]
    steps = [SIZES[group.size] + (1 if group.number == 3 else GAP) for group in groups]
    needs = [0, 0]
    needs[axis] = sum(extents) + GAP * (len(groups) - 1)
    needs[1 - axis] = max(
        step * (g.number - 1) + SIZES[g.size] for g, step in zip(groups, steps, strict=True)
    )
    shift = [0, 0]
    if not relation:  # of two shapes there are images enough without it
        shift = [_shift(rng, has - need, farthest) for has, need in zip(room, needs, strict=True)]
    centres: dict[int, list[tuple[int, int]]] = {}
    edge = -needs[axis] // 2
    for group, extent in zip(ordered, extents, strict=True):
        step = steps[groups.index(group)]
        places = []
        for i in range(group.number):
            place = shift.copy()
            place[axis] += edge + extent // 2
            place[1 - axis] += step * (2 * i - group.number + 1) // 2
            places.append((place[0], place[1]))
        centres[id(group)] = places
        edge += extent + GAP
    return [centres[id(group)] for group in groups]


def _shift(rng: Generator, slack: int, farthest: int) -> int:
    most = max(0, min(farthest, slack // 2)) // 2
    return 2 * int(rng.integers(-most, most + 1))


def _background(rng: Generator, width: int, height: int) -> Image.Image:
    pixels: NDArray[np.floating] = np.full((height, width), float(BACKGROUND))
    if rng.random() < GRADIENTS:
        down = rng.random() < 0.5
        ramp = np.linspace(-20, 20, height if down else width)
        pixels += ramp[:, None] if down else ramp[None, :]
    return Image.fromarray(np.repeat(np.clip(pixels, 0, 255)[..., None], 3, 2).astype(np.uint8))


def _paint(canvas: Image.Image, group: Group, centre: tuple[float, float], diameter: float) -> None:
    """Paints one shape, with smooth edges."""
    side = math.ceil(diameter) + 2
    left, top = math.floor(centre[0] - side / 2), math.floor(centre[1] - side / 2)
    mask = mask_of(group.shape, (side, side), (centre[0] - left, centre[1] - top), diameter / 2)
    canvas.paste(COLOURS[group.colour], (left, top), mask)
