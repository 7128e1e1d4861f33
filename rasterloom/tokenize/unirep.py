"""Uni-Rep: framing of image codes as tokens that state the shape.

    boi  grid(height)  grid(width)  [row of codes  eol] x rows  eoi

Height first. A grid token counts units of 32 pixels. ``eol`` follows every row, the last one too.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.schema import Profile
from rasterloom.tokenize.profiles import max_grid

HEAD = 3  # tokens before the first code: boi, height, width


def image_length(width: int, height: int, profile: Profile) -> int:
    """Return the number of tokens of a framed image.

    Raises:
        ValueError: a side is not a positive multiple of the profile's grid unit, or has no grid token.
    """
    for name, pixels in (("width", width), ("height", height)):
        _check_side(name, pixels, profile)
    return HEAD + (height // profile.downsample) * (width // profile.downsample + 1) + 1


def frame(codes: ArrayLike, profile: Profile) -> NDArray[np.int32]:
    """Frame the codes of one image.

    Args:
        codes: integers [h, w], row by row, each in 0 .. ``profile.codebook_size`` - 1.

    Returns:
        int32 [4 + h * (w + 1)], from boi to eoi.

    Raises:
        ValueError: not such an array, or a side that is no whole number of grid units.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(f"codes of an image have the shape [h, w], not {list(codes.shape)}")
    framed: NDArray[np.int32] = frame_batch(codes[None], profile)[0]
    return framed


def frame_batch(codes: ArrayLike, profile: Profile) -> NDArray[np.int32]:
    """Frame the codes [n, h, w] of images of one shape. Returns int32 [n, 4 + h * (w + 1)].

    Raises:
        ValueError: as ``frame``.
    """
    codes = np.asarray(codes)
    if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes are integers [n, h, w], not {codes.dtype} {list(codes.shape)}")
    n, rows, columns = codes.shape
    length = image_length(columns * profile.downsample, rows * profile.downsample, profile)
    wrong = (codes < 0) | (codes >= profile.codebook_size)
    if wrong.any():
        image, row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"code {codes[image, row, column]} at row {row}, column {column} is outside 0 .. "
            f"{profile.codebook_size - 1} of {profile.name}"
        )
    ids = np.empty((n, length), np.int32)
    ids[:, 0] = profile.boi
    ids[:, 1] = profile.grid0 + rows * profile.downsample // profile.grid_unit
    ids[:, 2] = profile.grid0 + columns * profile.downsample // profile.grid_unit
    body = ids[:, HEAD:-1].reshape(n, rows, columns + 1)
    body[..., :-1] = code_ids(profile)[codes]
    body[..., -1] = profile.eol
    ids[:, -1] = profile.eoi
    return ids


def unframe(ids: ArrayLike, profile: Profile) -> NDArray[np.int32]:
    """Return the codes, int32 [h, w], of a framed image: the inverse of ``frame``.

    Raises:
        ValueError: the frame is broken anywhere; the message says what stands at which position.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"a framed image is a row of integer ids, not {ids.dtype} {list(ids.shape)}")
    if len(ids) <= HEAD:
        raise ValueError(f"a framed image has more than {len(ids)} ids")
    if ids[0] != profile.boi:
        raise ValueError(f"position 0 holds {ids[0]}, not boi ({profile.boi})")
    sides = [_side(ids, position, name, profile) for position, name in ((1, "height"), (2, "width"))]
    rows, columns = sides
    length = HEAD + rows * (columns + 1) + 1
    if len(ids) != length:
        raise ValueError(
            f"a frame of {rows} x {columns} codes, as positions 1 and 2 say, has {length} ids; "
            f"this one has {len(ids)}"
        )
    if ids[-1] != profile.eoi:
        raise ValueError(f"position {length - 1} holds {ids[-1]}, not eoi ({profile.eoi})")
    body = ids[HEAD:-1].reshape(rows, columns + 1)
    lost = np.flatnonzero(body[:, -1] != profile.eol)
    if lost.size:
        row = int(lost[0])
        position = HEAD + (row + 1) * (columns + 1) - 1
        raise ValueError(f"row {row} does not end: position {position} holds {body[row, -1]}, not eol")
    tokens = body[:, :-1]
    known = (tokens >= 0) & (tokens < profile.vocab_size)
    codes = _codes_of_ids(profile)[np.where(known, tokens, profile.eol)]
    if (codes < 0).any():
        row, column = (int(i) for i in np.argwhere(codes < 0)[0])
        raise ValueError(
            f"row {row}, column {column} (position {HEAD + row * (columns + 1) + column}) holds "
            f"{tokens[row, column]}, which is no image token of {profile.name}"
        )
    return codes


@lru_cache(maxsize=8)
def code_ids(profile: Profile) -> NDArray[np.int32]:
    """Return the token id of every code, int32 [codebook_size], read-only."""
    if profile.image_ids is None:
        ids = np.arange(profile.image0, profile.image0 + profile.codebook_size, dtype=np.int32)
    else:
        ids = np.array(profile.image_ids, np.int32)
    ids.flags.writeable = False
    return ids


@lru_cache(maxsize=8)
def _codes_of_ids(profile: Profile) -> NDArray[np.int32]:
    """Return the code of every token id, int32 [vocab_size]. -1 where it is none."""
    codes = np.full(profile.vocab_size, -1, np.int32)
    codes[code_ids(profile)] = np.arange(profile.codebook_size, dtype=np.int32)
    return codes


def _side(ids: NDArray[np.integer], position: int, name: str, profile: Profile) -> int:
    """Return the codes along a side, by its grid token."""
    units = int(ids[position]) - profile.grid0
    if not 1 <= units <= max_grid(profile):
        raise ValueError(f"position {position} holds {ids[position]}, not a grid token for the {name}")
    return units * profile.grid_unit // profile.downsample


def _check_side(name: str, pixels: int, profile: Profile) -> None:
    limit = max_grid(profile) * profile.grid_unit
    if pixels < 1 or pixels % profile.grid_unit or pixels > limit:
        raise ValueError(
            f"a {name} of {pixels} pixels does not fit {profile.name}: it takes multiples of "
            f"{profile.grid_unit} up to {limit}"
        )
