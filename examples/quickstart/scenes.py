"""Draws the captioned scenes of the quickstart corpus: coloured shapes on plain backgrounds.

A scene is a function of its seed alone. Colour, size, number and place are in the caption, so that a
model trained on the scenes can be asked for each of them.
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
SIZES = {"small": 0.24, "": 0.38, "large": 0.64}  # diameter / short side; the middle size goes unsaid
# A tone of grey. One, and few places: what a scene does not say in its caption, a model has to guess.
BACKGROUND = 228
GRADIENTS = 0.05  # share of scenes whose background is not plain
NUMBERS = {1: "a", 2: "two", 3: "three"}

# (width : height), share. Few ratios with many scenes each: a ratio with few scenes is not learnt.
FRAMES = {(1, 1): 0.40, (5, 3): 0.28, (3, 5): 0.28, (3, 1): 0.02, (1, 3): 0.02}
SHORT_SIDES = (96, 120, 144, 192, 240, 288, 360, 399)  # pixels; all divisible by 3
GAP = 0.04  # between shapes, / short side
MARGIN = 0.10  # kept free at each edge, / short side; a crop of 5:3 to 2:1 takes 0.083
STEP = 0.125  # a scene lies in the middle or so far beside it, / short side
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
    """A drawn scene: an RGB image, its caption, and the colours and shapes that the caption names."""

    image: Image.Image
    caption: str
    colours: list[str]
    shapes: list[str]


def scenes(n: int, seed: int) -> Iterator[Scene]:
    """Draws `n` scenes one by one; different seeds share no scene (for n up to a million)."""
    return (draw_scene(seed * 1_000_000 + i) for i in range(n))


def draw_scene(seed: int, size: tuple[int, int] | None = None) -> Scene:
    """Draws the scene of a seed, at `size` (width, height) in pixels if given, else at one of its own."""
    rng = np.random.default_rng(seed)
    frame = _frame(rng)
    groups, relation = _story(rng)
    canvas = _background(rng, *(size or frame))
    for group, centres in zip(groups, _places(rng, canvas.size, groups, relation), strict=True):
        for centre in centres:
            _paint(rng, canvas, group, centre)
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


def _story(rng: Generator) -> tuple[list[Group], str]:
    """What a scene shows: mostly one shape, else a few equal ones or two groups in relation."""
    kind = rng.choice(["one", "several", "relation"], p=[0.70, 0.12, 0.18])
    if kind == "relation":
        colours = rng.choice(list(COLOURS), 2, replace=False)
        numbers = rng.choice([1, 2], 2, p=[0.75, 0.25])
        groups = [_group(rng, str(c), int(n), large=False) for c, n in zip(colours, numbers, strict=True)]
        return groups, str(rng.choice(["left of", "right of", "above", "below"]))
    number = 1 if kind == "one" else int(rng.integers(2, 4))
    return [_group(rng, str(rng.choice(list(COLOURS))), number, large=number == 1)], ""


def _group(rng: Generator, colour: str, number: int, large: bool) -> Group:
    sizes = ["small"] if number == 3 else ["small", "", "large"] if large else ["small", ""]
    return Group(number, str(rng.choice(sizes)), colour, str(rng.choice(SHAPES)))


def _places(
    rng: Generator, size: tuple[int, int], groups: list[Group], relation: str
) -> list[list[tuple[float, float]]]:
    """Centres of all shapes, in pixels. Everything fits into the middle square less its margin.

    Two groups lie along the axis of their relation, the shapes of a group across it.
    """
    short = min(size)
    axis = 1 if relation in ("above", "below") else 0 if relation else 1 - int(size[0] >= size[1])
    ordered = groups if relation in ("left of", "above", "") else groups[::-1]
    extents = [SIZES[group.size] for group in ordered]
    along = sum(extents) + GAP * (len(groups) - 1)
    across = max((SIZES[g.size] + GAP) * g.number - GAP for g in groups)
    slack = np.array([1 - 2 * MARGIN, 1 - 2 * MARGIN])
    slack[axis] -= along
    slack[1 - axis] -= across
    spread = slack[axis] / 2 if len(groups) > 1 else 0.0
    slack[axis] -= spread
    shift = rng.integers(-1, 2, 2) * STEP * (slack >= 2 * STEP)
    centres: dict[int, list[tuple[float, float]]] = {}
    position = -(along + spread) / 2
    for group, extent in zip(ordered, extents, strict=True):
        centres[id(group)] = []
        for i in range(group.number):
            offset = np.zeros(2)
            offset[axis] = position + extent / 2
            offset[1 - axis] = (i - (group.number - 1) / 2) * (extent + GAP)
            x, y = (offset + shift) * short + np.array(size) / 2
            centres[id(group)].append((float(x), float(y)))
        position += extent + GAP + spread
    return [centres[id(group)] for group in groups]


def _background(rng: Generator, width: int, height: int) -> Image.Image:
    pixels: NDArray[np.floating] = np.full((height, width), float(BACKGROUND))
    if rng.random() < GRADIENTS:
        down = rng.random() < 0.5
        ramp = np.linspace(-20, 20, height if down else width)
        pixels += ramp[:, None] if down else ramp[None, :]
    return Image.fromarray(np.repeat(np.clip(pixels, 0, 255)[..., None], 3, 2).astype(np.uint8))


def _paint(rng: Generator, canvas: Image.Image, group: Group, centre: tuple[float, float]) -> None:
    """Paints one shape, drawn four times as large and reduced, so that its edges are smooth."""
    diameter = SIZES[group.size] * min(canvas.size)
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
    """Corners of a polygon inside the circle of radius r around (x, y), point upwards."""
    points = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    radii = [r * (0.45 if shape == "star" and i % 2 else 1.0) for i in range(points)]
    angles = [start + 2 * math.pi * i / points for i in range(points)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]
