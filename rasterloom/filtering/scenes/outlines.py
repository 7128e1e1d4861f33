"""Outlines of the shapes of drawn scenes."""

import math

from PIL import Image, ImageDraw

HOLE = 0.55  # radius of a ring's hole, of the ring's
WAIST = 0.45  # radius of a star's inner corners, of its points'
OVERSAMPLE = 4
# Area of a shape in a circle of radius 1.
AREAS = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 10 / 2 * WAIST * math.sin(math.pi / 5),
    "ring": math.pi * (1 - HOLE**2),
}


def mask_of(shape: str, size: tuple[int, int], centre: tuple[float, float], radius: float) -> Image.Image:
    """Draw a shape's coverage, 0 to 255, of each pixel."""
    mask = Image.new("L", (size[0] * OVERSAMPLE, size[1] * OVERSAMPLE))
    draw = ImageDraw.Draw(mask)
    x, y, r = (v * OVERSAMPLE for v in (*centre, radius))
    if shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if shape == "ring":
            hole = HOLE * r
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:
        draw.polygon(_corners(shape, x, y, r), fill=255)
    return mask.reduce(OVERSAMPLE)


def _corners(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a polygon in a circle of radius r, point upwards."""
    points = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    radii = [r * (WAIST if shape == "star" and i % 2 else 1.0) for i in range(points)]
    angles = [start + 2 * math.pi * i / points for i in range(points)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]
