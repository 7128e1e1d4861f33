"""Objects in an image of a drawn scene: shape, colour, size and place of each.

A pixel belongs to an object if it stands out from the background. An object's shape is that of the outline
of equal area and centre which covers the same pixels; an object that no outline covers well has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rasterloom.filtering.scenes.grammar import BACKGROUND, COLOURS, SIZES, cell_of
from rasterloom.filtering.scenes.outlines import AREAS, mask_of

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

STANDS_OUT = 60.0  # distance from the background, in RGB; the shapes' own is 200 and more
GREYISH = 24.0  # spread of a background pixel's channels
TONES = 45.0  # grey levels of the background either side of its median
LEAST_BACKGROUND = 0.25  # share of an image
LEAST_AREA = 0.25  # of an object, in square cells
ONE_COLOUR = 0.85  # share of an object's pixels, else it is parted into its colours
OFF_COLOUR = 70.0  # distance of an object's tone from the palette's, in RGB
# Least intersection over union with the outline. Through the codec, at 128 pixels, the small ones have
# .97, .94, .90, .83 and .89; drawn blobs and halves have less.
OVERLAP = {"circle": 0.92, "square": 0.89, "triangle": 0.86, "star": 0.80, "ring": 0.84}
FINE = 12  # points a cell on the grid that outlines are compared on
WOBBLE = 0.14  # most, from edge to outline on average, in cells


@dataclass(frozen=True)
class Found:
    """An object of an image, named by the grammar's words.

    Shape or colour is empty, and size None, where it is none of the grammar's.
    """

    shape: str
    colour: str
    size: str | None  # "" is the middle size
    centre: tuple[float, float]  # x, y in cells
    diameter: float  # cells
    overlap: float  # of the outline that fits best, 0 to 1
    wobble: float  # mean distance of edge and outline, in cells

    def __str__(self) -> str:
        size = {"": "middle-sized", None: "odd-sized"}.get(self.size, self.size)
        return f"{size} {self.colour or 'odd-coloured'} {self.shape or 'blob'}"


def find_objects(image: NDArray[np.uint8]) -> tuple[Found, ...]:
    """Find the objects of an RGB image [h, w, 3], from left to right.

    An image that is hardly grey anywhere has none.
    """
    cell = cell_of(image.shape[1], image.shape[0])
    background = _background(image)
    if background is None:
        return ()
    apart = image.astype(np.float32) - background
    found = [_name(apart, mask, colour, cell) for mask, colour in _parts(apart, cell)]
    return tuple(sorted(found, key=lambda one: one.centre))


def _background(image: NDArray[np.uint8]) -> Pixels | None:
    """Fit a plane of tones [h, w, 3] to the grey pixels.

    None if there are few.
    """
    values = image.astype(np.float32)
    tone = values.mean(axis=2)
    grey = np.ptp(values, axis=2) < GREYISH
    if grey.any():
        grey &= np.abs(tone - np.median(tone[grey])) < TONES
    if grey.mean() < LEAST_BACKGROUND:
        return None
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    plane = np.stack([np.ones_like(x), x / image.shape[1], y / image.shape[0]], axis=2)
    weights, *_ = np.linalg.lstsq(plane[grey], values[grey], rcond=None)
    return np.asarray(plane @ weights, np.float32)


def _parts(apart: Pixels, cell: float) -> Iterator[tuple[Mask, str]]:
    """Masks [h, w] of the objects, each with its colour of the palette."""
    stands_out = np.linalg.norm(apart, axis=2) > STANDS_OUT
    least = LEAST_AREA * cell**2
    names = _nearest_colours(apart)
    for part in _components(stands_out, least):
        counts = np.bincount(names[part], minlength=len(COLOURS))
        if counts.max() >= ONE_COLOUR * counts.sum():
            yield part, list(COLOURS)[int(counts.argmax())]
            continue
        for number, colour in enumerate(COLOURS):
            inner = cv2.morphologyEx((part & (names == number)).astype(np.uint8), cv2.MORPH_OPEN, _CROSS)
            for piece in _components(inner.astype(bool), least):
                yield piece, colour


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def _components(mask: Mask, least: float) -> Iterator[Mask]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= least:
            yield labels == number


def _nearest_colours(apart: Pixels) -> NDArray[np.intp]:
    """Numbers [h, w] of the palette's nearest colours.

    They are nearest by the direction away from the background: a pixel at an edge lies between background
    and colour, in the same direction.
    """
    ways = np.array(list(COLOURS.values()), np.float32) - BACKGROUND
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    return np.asarray(np.argmax(apart @ ways.T, axis=2))


def _name(apart: Pixels, mask: Mask, colour: str, cell: float) -> Found:
    """Name an object by its mask."""
    core = cv2.erode(mask.astype(np.uint8), _CROSS).astype(bool)
    tone = np.median(apart[core if core.any() else mask], axis=0)
    off = float(np.linalg.norm(tone - (np.array(COLOURS[colour], np.float32) - BACKGROUND)))
    cover, (left, top) = _coverage(apart, mask, tone, cell)
    moments = cv2.moments(cover.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    centre = moments["m10"] / area, moments["m01"] / area
    overlap, radius, shape = max(_overlap(cover, name, centre, area) for name in AREAS)
    edge = cover ^ cv2.erode(cover.astype(np.uint8), _CROSS).astype(bool)
    wobble = (1 - overlap) * area / max(1, int(np.count_nonzero(edge))) / FINE
    diameter = 2 * radius / FINE
    return Found(
        shape=shape if overlap >= OVERLAP[shape] and wobble <= WOBBLE else "",
        colour=colour if off <= OFF_COLOUR else "",
        size=_size(diameter),
        centre=(left / cell + centre[0] / FINE, top / cell + centre[1] / FINE),
        diameter=diameter,
        overlap=overlap,
        wobble=wobble,
    )


def _coverage(apart: Pixels, mask: Mask, tone: Pixels, cell: float) -> tuple[Mask, tuple[int, int]]:
    """Cover a grid, ``FINE`` points to a cell, by an object.

    Returns the grid and its left and top in the image. The share of a pixel that is covered, smooth at an
    edge, tells where in the pixel the edge is.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    left, top = max(0, x - 3), max(0, y - 3)
    window = slice(top, y + height + 3), slice(left, x + width + 3)
    near = cv2.dilate(mask[window].astype(np.uint8), np.ones((5, 5), np.uint8))
    share = np.clip(apart[window] @ tone / max(1.0, float(tone @ tone)), 0, 1) * near
    size = [max(1, round(side * FINE / cell)) for side in share.shape[::-1]]
    return cv2.resize(share, size, interpolation=cv2.INTER_LINEAR) >= 0.5, (left, top)


def _overlap(cover: Mask, shape: str, centre: tuple[float, float], area: float) -> tuple[float, float, str]:
    """Intersection over union of an object with an outline, and the radius.

    The outline has the object's area and centre.
    """
    radius = float(np.sqrt(area / AREAS[shape]))
    size = cover.shape[1], cover.shape[0]
    outline = np.asarray(mask_of(shape, size, (centre[0] + 0.5, centre[1] + 0.5), radius)) >= 128
    # What of the outline lies beyond the window counts as area that is not covered.
    both = float(np.count_nonzero(cover & outline))
    return both / max(1.0, 2 * area - both), radius, shape


def _size(diameter: float) -> str | None:
    """Name the nearest size by ratio; None far outside of all."""
    name, cells = min(SIZES.items(), key=lambda size: abs(np.log(size[1] / diameter)))
    return name if 0.75 <= diameter / cells <= 1.35 else None
