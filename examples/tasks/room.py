"""Ray-traced rooms with a few balls: an image and annotations of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 45),
    "yellow": (245, 208, 30),
    "green": (40, 160, 70),
    "blue": (40, 85, 215),
    "purple": (140, 50, 185),
    "white": (240, 240, 240),
}
GROUND = np.array([196, 190, 182], float)
SKY = np.array([222, 228, 234], float)
LIGHT = np.array([-0.45, 0.75, 0.5]) / np.linalg.norm([-0.45, 0.75, 0.5])
EYE = np.array([0.0, 1.5, 5.0])
FARTHEST = 12.0  # metres, of depth


@dataclass(frozen=True)
class Ball:
    """A ball on the ground: its position, in metres to the right of and towards the viewer, and its size."""

    colour: str
    x: float
    z: float
    radius: float


@dataclass(frozen=True)
class View:
    """Image and annotations of one view, of one size and aligned."""

    image: Image.Image
    depth: Image.Image  # the nearer the brighter
    normal: Image.Image  # x, y and z of the surface as red, green and blue
    segments: Image.Image  # a colour for each ball, black for the ground, grey for the sky
    boxes: dict[str, tuple[int, int, int, int]]  # of each ball by its colour: left, top, right, bottom


def draw_balls(seed: int) -> list[Ball]:
    """Return the one to three balls of a seed's room. No two are of one colour."""
    rng = np.random.default_rng(seed)
    colours = rng.permutation(list(COLOURS))[: int(rng.integers(1, 4))]
    places = np.linspace(-1.3, 1.3, len(colours)) if len(colours) > 1 else np.array([rng.uniform(-0.7, 0.7)])
    return [
        Ball(
            str(c),
            float(x + rng.uniform(-0.15, 0.15)),
            float(rng.uniform(-1, 0.6)),
            float(rng.uniform(0.45, 0.75)),
        )
        for c, x in zip(colours, places, strict=True)
    ]


def turned(balls: Sequence[Ball], angle: float) -> list[Ball]:
    """Rotate a room around its centre by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return [replace(b, x=float(c * b.x + s * b.z), z=float(c * b.z - s * b.x)) for b in balls]


def words(balls: Sequence[Ball]) -> str:
    """Describe a room, from left to right."""
    ordered = sorted(balls, key=lambda ball: ball.x)
    return " left of ".join(f"a {ball.colour} ball" for ball in ordered)


def view(balls: Sequence[Ball], size: tuple[int, int]) -> View:
    """Render a view of a room; ``size`` is (width, height) in pixels."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    scale = 2 / min(size)
    rays = np.stack(
        [(x - width / 2) * scale, (height / 2 - y) * scale - 0.55, np.full(x.shape, -2.5)], axis=-1
    )
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)

    distance = np.full(x.shape, np.inf)
    normals = np.zeros((*x.shape, 3))
    colour = np.broadcast_to(SKY, normals.shape).copy()
    segments = np.full(normals.shape, 128.0)
    down = rays[..., 1] < 0
    distance[down] = -EYE[1] / rays[down][:, 1]
    normals[down], colour[down], segments[down] = (0, 1, 0), GROUND, 0
    boxes: dict[str, tuple[int, int, int, int]] = {}
    for ball in balls:
        offset = EYE - np.array([ball.x, ball.radius, ball.z])
        half = rays @ offset
        inside = half**2 - (offset @ offset - ball.radius**2)
        hit = -half - np.sqrt(np.maximum(inside, 0))
        mine = (inside > 0) & (hit > 0) & (hit < distance)
        distance[mine] = hit[mine]
        normals[mine] = (offset + hit[..., None] * rays)[mine] / ball.radius
        colour[mine] = segments[mine] = COLOURS[ball.colour]
        if mine.any():
            down_, across = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
            boxes[ball.colour] = (int(across[0]), int(down_[0]), int(across[-1]), int(down_[-1]))
    lit = np.where(
        np.isfinite(distance)[..., None], 0.45 + 0.55 * np.clip(normals @ LIGHT, 0, 1)[..., None], 1
    )
    near = 255 * np.clip(1 - distance / FARTHEST, 0, 1)
    return View(
        image=picture(colour * lit),
        depth=picture(np.repeat(near[..., None], 3, axis=-1)),
        normal=picture(127.5 * (normals + 1)),
        segments=picture(segments),
        boxes=boxes,
    )


def picture(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))
