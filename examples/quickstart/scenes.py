"""Renders the captioned scenes of the quickstart corpus: coloured shapes on plain backgrounds.

A scene depends only on its seed. Colour, size, number and position are in the caption, so that a model
trained on the scenes can be prompted for each of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 45),
    "yellow": (245, 208, 30),
    "green": (40, 160, 70),
    "cyan": (30, 190, 205),
    "blue": (40, 85, 215),
    "purple": (140, 50, 185),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
# Diameters and places are whole cells: at a target of 128 a cell is one code of 8 x 8 pixels in every
# frame. A shape therefore has the same codes at any position, which a tiny model can learn.
SIZES = {"small": 4, "": 6, "large": 10}  # diameter in cells; the middle size is not in the caption
# A tone of grey. A model must guess what the caption omits, so there is one tone and few positions.
BACKGROUND = 228
GRADIENTS = 0.05  # share of scenes whose background is not plain
NUMBERS = {1: "a", 2: "two", 3: "three"}

# (width : height), share. Few ratios with many scenes each: a model does not learn a ratio with few scenes.
FRAMES = {(1, 1): 0.40, (5, 3): 0.28, (3, 5): 0.28, (3, 1): 0.02, (1, 3): 0.02}
SHORT_SIDES = (96, 120, 144, 192, 240, 288, 360, 399)  # pixels; all divisible by 3
GAP = 2  # cells between shapes, 1 between three
MARGIN = 1  # cells kept free at each edge; a crop of 5:3 to 2:1 takes as much
FARTHEST = 2  # cells from the centre by which a scene may be moved, in steps of two
OVERSAMPLE = 4


@dataclass(frozen=True)
class Group:
    """One to three equal shapes: the "two small red circles" of a caption."""

    number: int
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        words = (NUMBERS[self.number], self.size, self.colour, self.shape + "s" * (self.number > 1))
        return " ".join(word for word in words if word)


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


def draw_scene(seed: int, size: tuple[int, int] | None = None) -> Scene:
    """Render a seed's scene, at `size` (width, height) or its own."""
    rng = np.random.default_rng(seed)
    frame = _frame(rng)
    canvas = _background(rng, *(size or frame))
    cell = _cell(*canvas.size)
    groups, relation = _story(rng, roomy=min(canvas.size) > 13 * cell)
    room = [int(side / cell + 1e-6) - 2 * MARGIN for side in canvas.size]
    for group, centres in zip(groups, _places(rng, room, groups, relation), strict=True):
        for x, y in centres:
            middle = (canvas.width / 2 + x * cell, canvas.height / 2 + y * cell)
            _paint(canvas, group, middle, SIZES[group.size] * cell)
    return Scene(
        image=canvas,
        caption=f" {relation} ".join(map(str, groups)),
        colours=[group.colour for group in groups],
        shapes=[group.shape for group in groups],
    )


def _frame(rng: Generator) -> tuple[int, int]:
    w, h = list(FRAMES)[rng.choice(len(FRAMES), p=list(FRAMES.values()))]
    unit = int(rng.choice(SHORT_SIDES)) // min(w, h)
    return w * unit, h * unit


def _cell(width: int, height: int) -> float:
    """Pixels of a cell: the short side has 16 if the frame is about square, else 12.

    These are the codes along the short side of the buckets 128 x 128, and 160 x 96.
    """
    short, long = sorted((width, height))
    return short / (16 if 3 * long <= 4 * short else 12)


def _story(rng: Generator, roomy: bool) -> tuple[list[Group], str]:
    """Content of a scene: mostly one shape, else a few equal ones or two groups in relation."""
    kind = rng.choice(["one", "several", "relation"], p=[0.70, 0.12, 0.18])
    if kind == "relation":
        colours = rng.choice(list(COLOURS), 2, replace=False)
        numbers = rng.choice([1, 2], 2, p=[0.75, 0.25])
        sizes = ["small", ""] if roomy else ["small"]
        groups = [_group(rng, str(c), int(n), sizes) for c, n in zip(colours, numbers, strict=True)]
        return groups, str(rng.choice(["left of", "right of", "above", "below"]))
    number = 1 if kind == "one" else int(rng.integers(2, 4))
    sizes = ["small", "", "large"][: 4 - number]
    return [_group(rng, str(rng.choice(list(COLOURS))), number, sizes)], ""


def _group(rng: Generator, colour: str, number: int, sizes: list[str]) -> Group:
    return Group(number, str(rng.choice(sizes)), colour, str(rng.choice(SHAPES)))


def _places(
    rng: Generator, room: list[int], groups: list[Group], relation: str
) -> list[list[tuple[int, int]]]:
    """Centres (x, y) of all shapes, in cells from the middle. `room` is how many there are each way.

    Two groups lie along the axis of their relation, the shapes of a group across it. Shapes without a
    relation lie along the long side.
    """
    axis = 1 if relation in ("above", "below") else 0 if relation else int(room[0] >= room[1])
    ordered = groups if relation in ("left of", "above", "") else groups[::-1]
    extents = [SIZES[group.size] for group in ordered]
    steps = [SIZES[group.size] + (1 if group.number == 3 else GAP) for group in groups]
    needs = [0, 0]
    needs[axis] = sum(extents) + GAP * (len(groups) - 1)
    needs[1 - axis] = max(
        step * (g.number - 1) + SIZES[g.size] for g, step in zip(groups, steps, strict=True)
    )
    shift = [_shift(rng, has - need) for has, need in zip(room, needs, strict=True)]
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


def _shift(rng: Generator, slack: int) -> int:
    most = max(0, min(FARTHEST, slack // 2)) // 2
    return 2 * int(rng.integers(-most, most + 1))


def _background(rng: Generator, width: int, height: int) -> Image.Image:
    pixels: NDArray[np.floating] = np.full((height, width), float(BACKGROUND))
    if rng.random() < GRADIENTS:
        down = rng.random() < 0.5
        ramp = np.linspace(-20, 20, height if down else width)
        pixels += ramp[:, None] if down else ramp[None, :]
    return Image.fromarray(np.repeat(np.clip(pixels, 0, 255)[..., None], 3, 2).astype(np.uint8))


def _paint(canvas: Image.Image, group: Group, centre: tuple[float, float], diameter: float) -> None:
    """Paints one shape at four times its size, reduced for smooth edges."""
    side = math.ceil(diameter) + 2
    left, top = math.floor(centre[0] - side / 2), math.floor(centre[1] - side / 2)
    x, y, r = ((v * OVERSAMPLE) for v in (centre[0] - left, centre[1] - top, diameter / 2))
    mask = Image.new("L", (side * OVERSAMPLE, side * OVERSAMPLE))
    draw = ImageDraw.Draw(mask)
    if group.shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if group.shape == "ring":
            hole = 0.55 * r
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:
        draw.polygon(_corners(group.shape, x, y, r), fill=255)
    canvas.paste(COLOURS[group.colour], (left, top), mask.reduce(OVERSAMPLE))


def _corners(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a polygon in a circle of radius r, point upwards."""
    points = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    radii = [r * (0.45 if shape == "star" and i % 2 else 1.0) for i in range(points)]
    angles = [start + 2 * math.pi * i / points for i in range(points)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]
