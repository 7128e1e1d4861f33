"""ICC profiles made of primaries and a gamma."""

import struct
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Primaries = tuple[float, ...]  # x and y of white, red, green and blue

D65 = (0.3127, 0.329)
SRGB_PRIMARIES: Primaries = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
SRGB_GAMMA = 0.0  # stands for the curve of sRGB, which is no power

# Colour primaries of ITU-T H.273.
PRIMARIES: dict[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (0.31, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}

_D50 = (0.9642, 1.0, 0.8249)
_MOST = 4.0  # of X, Y and Z of a primary: what lies above is not meant
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@lru_cache(maxsize=64)
def made_profile(primaries: Primaries, gamma: float, *, grey: bool) -> bytes | None:
    """Return an ICC profile of primaries and gamma. None if the primaries span no colours."""
    curve = _parametric(3, *_SRGB_CURVE) if gamma == SRGB_GAMMA else _parametric(0, gamma)
    if grey:
        return _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": curve})
    try:
        red, green, blue = _to_d50(primaries).T
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not all(np.abs(colour).max() < _MOST for colour in (red, green, blue)):  # nor where one is no number
        return None
    colours = {b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    return _profile(b"RGB ", {b"wtpt": _xyz(_D50), **colours, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for kind, tag in tags.items():
        table += kind + struct.pack(">II", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = bytearray(128)
    head[8:24] = b"\x04\x20\0\0mntr" + space + b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = _fixed(*_D50)
    size = struct.pack(">I", len(head) + len(table) + len(body))
    return size + bytes(head[4:]) + table + body


def _to_d50(primaries: Primaries) -> NDArray[np.float64]:
    """Return the XYZ of red, green and blue in D50, in columns."""
    points = [
        np.array((x / y, 1.0, (1 - x - y) / y)) for x, y in zip(primaries[::2], primaries[1::2], strict=True)
    ]
    white, colours = points[0], np.stack(points[1:], axis=1)
    colours = colours * np.linalg.solve(colours, white)
    cones = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ colours)


def _xyz(colour: Iterable[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*colour)


def _parametric(kind: int, *numbers: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(*numbers)


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
