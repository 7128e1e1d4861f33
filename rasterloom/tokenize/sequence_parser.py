"""Parser of token sequences into texts, turns and images."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.schema import Profile
from rasterloom.tokenize.conversation import structure
from rasterloom.tokenize.profiles import max_grid
from rasterloom.tokenize.unirep import HEAD, unframe

Kind = Literal["bos", "sep", "text", "image"]


@dataclass(frozen=True)
class Piece:
    """A run of tokens from ``start`` to before ``end``."""

    kind: Kind
    start: int
    end: int
    codes: NDArray[np.int32] | None = None  # [h, w] of an image

    def size(self, profile: Profile) -> tuple[int, int]:
        """Return (width, height) in pixels of an image."""
        assert self.codes is not None
        rows, columns = self.codes.shape
        return columns * profile.downsample, rows * profile.downsample


def pieces(ids: ArrayLike, profile: Profile) -> list[Piece]:
    """Take a sequence apart, and check every frame in it.

    Args:
        ids: integers [n].

    Raises:
        ValueError: an id outside of the vocabulary, a broken frame, or a token of a frame outside of any;
            the message says which and where.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"a sequence is a row of integer ids, not {array.dtype} {list(array.shape)}")
    outside = np.flatnonzero((array < 0) | (array >= profile.vocab_size))
    if outside.size:
        at = int(outside[0])
        raise ValueError(
            f"position {at} holds {array[at]}, outside of {profile.name}'s 0 .. {profile.vocab_size - 1}"
        )
    special = structure(profile)
    found: list[Piece] = []
    at = 0
    while at < len(array):
        if array[at] == profile.boi:
            piece = _image(array, at, profile)
        elif array[at] in (profile.bos, profile.sep):
            piece = Piece("bos" if array[at] == profile.bos else "sep", at, at + 1)
        elif special[array[at]]:
            raise ValueError(f"position {at} holds {array[at]}, which stands in no frame")
        else:
            ends = np.flatnonzero(special[array[at:]])
            piece = Piece("text", at, at + int(ends[0]) if ends.size else len(array))
        found.append(piece)
        at = piece.end
    return found


def _image(ids: NDArray[np.integer], at: int, profile: Profile) -> Piece:
    """The frame at a position, as long as its grid tokens say."""
    head = ids[at + 1 : at + HEAD].astype(int) - profile.grid0
    end = len(ids)
    if len(head) == 2 and ((head >= 1) & (head <= max_grid(profile))).all():
        rows, columns = (int(units) * profile.grid_unit // profile.downsample for units in head)
        end = min(end, at + HEAD + rows * (columns + 1) + 1)
    try:
        return Piece("image", at, end, unframe(ids[at:end], profile))
    except ValueError as error:
        raise ValueError(f"the frame at position {at}: {error}") from None


def draw(
    ids: Sequence[int],
    loss_spans: Sequence[int],
    profile: Profile,
    decode: Callable[[list[int]], str] | None = None,
    width: int = 100,
) -> list[str]:
    """Draw a sequence as lines of text; ``┃`` marks what is learnt.

    Args:
        loss_spans: start, end, start, end, ... of what is learnt.
        decode: text of ids; where there is none, the ids are shown.
        width: characters of a line.

    Raises:
        ValueError: as ``pieces``.
    """
    array = np.asarray(ids)
    learnt = np.zeros(len(array), np.bool_)
    for start, end in zip(loss_spans[::2], loss_spans[1::2], strict=True):
        learnt[start:end] = True
    digits = len(str(len(array)))
    lines: list[str] = []

    def line(at: int, text: str) -> None:
        number = f"{at:>{digits}}" if at >= 0 else " " * digits
        lines.append(f"{'┃' if learnt[max(at, last)] else ' '} {number}  {text}".rstrip())

    room = max(20, width - digits - 4)
    for piece in pieces(array, profile):
        last = piece.start
        if piece.kind == "image":
            assert piece.codes is not None
            (wide, high), (rows, columns) = piece.size(profile), piece.codes.shape
            line(piece.start, "boi")
            line(piece.start + 1, f"H {high // profile.grid_unit}: {high} pixels, {rows} rows")
            line(piece.start + 2, f"W {wide // profile.grid_unit}: {wide} pixels, {columns} codes a row")
            for row, codes in enumerate(piece.codes.tolist()):
                at = piece.start + HEAD + row * (columns + 1)
                line(at, shortened(codes, len(str(profile.codebook_size - 1)), room - 5) + "  eol")
            line(piece.end - 1, "eoi")
        elif piece.kind == "text":
            mine = [int(i) for i in array[piece.start : piece.end]]
            text = decode(mine).replace("\n", "⏎") if decode else " ".join(map(str, mine))
            first, *more = textwrap.wrap(f"{text!r}" if decode else f"ids {text}", room) or [""]
            line(piece.start, first)
            for part in more:
                line(-1, part)
        else:
            line(piece.start, piece.kind)
    return lines


def shortened(codes: Sequence[int], digits: int, room: int) -> str:
    """Write numbers in columns, the middle left out if too many."""
    fits = max(2, (room + 1) // (digits + 1))
    words = [f"{code:>{digits}}" for code in codes]
    if len(words) > fits:
        most = max(2, (room - 1) // (digits + 1))
        before = -(-most // 2)
        words = [*words[:before], "…", *words[len(words) - (most - before) :]]
    return " ".join(words)
