"""Exact duplicates (SHA-256), near duplicates (pHash and thumbnail) and semantic duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rasterloom.filtering.semantic_duplicates import first_alike

Rows = NDArray[np.int64]

THUMBNAIL_BYTES = 192  # 8 x 8 RGB
COLOUR_TOLERANCE = 16  # of 255; see `find_duplicates`
_AT_ONCE = 1 << 18  # thumbnail pairs compared in one go


@dataclass(frozen=True)
class Candidates:
    """The rows among which duplicates are sought, n of them: 250 bytes a row and the key."""

    keys: pa.ChunkedArray
    """String [n]."""
    rank: NDArray[np.float64]
    """[n], higher is rather kept; NaN is worst."""
    earlier: NDArray[np.bool_]
    """[n]: was kept by the last version."""
    sha256: NDArray[np.uint64]
    """[n, 2]: 128 bits that stand for it; 0 and 0 for null."""
    phash: NDArray[np.uint64]
    """[n]"""
    thumbnails: NDArray[np.uint8]
    """[n, 192]: 8 x 8 RGB."""
    known: NDArray[np.bool_]
    """[n]: phash and thumbnail are there, not null."""
    embeddings: NDArray[Any] | None = None
    """Floats [n, d] of length 1, NaN for null."""


def find_duplicates(
    rows: Candidates,
    *,
    exact: bool,
    radius: int | None,
    similarity: float | None = None,
    others: int = 0,
) -> tuple[Rows, NDArray[np.bool_]]:
    """Return for each row the row that is kept in its place: its own where it is kept itself.

    Rows are taken from the best to the worst: those that were kept before, by `rank`, then by key. Each is
    kept unless it duplicates one that is already kept. So there are no chains: a dropped row points to a kept
    one, and is itself a duplicate of it. (With several kinds of duplicates, its original may be dropped by
    a later kind; then it points to what was kept instead.)

    Args:
        exact: seek exact duplicates
        radius: seek near duplicates, whose hashes differ in at most so many of 64 bits; not if None
        similarity: seek semantic duplicates, whose embeddings have at least this cosine; not if None
        others: known rows that were left out, as nothing is near them. With their number the result is that
            of all rows together, also which of several near ones a row points to.

    Returns:
        rows kept [n], and which rows [n] were dropped for their meaning only

    pHash sees luma and only its coarse forms: by it alone, a red and a blue circle on white are the same
    image, and so are all plain pages. So near duplicates must also agree in their thumbnails, to
    `COLOUR_TOLERANCE` in every value. Resizing and recompressing an image changes them by less than that.
    Null matches nothing.
    """
    order = _best_first(rows)
    n = len(order)
    kept = np.arange(n)  # in terms of places in `order`, here and below
    if exact:
        kept = first_of_equal_pairs(rows.sha256[order])
    if radius is not None:
        places = np.flatnonzero((kept == np.arange(n)) & rows.known[order])
        near = _near(rows.phash[order[places]], rows.thumbnails, radius, order[places], others)
        kept[places] = places[near]
        kept = kept[kept]  # what doubled a row exactly that is now dropped follows it to the row kept
    semantic = np.zeros(n, bool)
    if similarity is not None and rows.embeddings is not None:
        places = np.flatnonzero(kept == np.arange(n))
        kept[places] = places[first_alike(rows.embeddings, order[places], similarity)]
        semantic[order[places]] = kept[places] != places
        kept = kept[kept]
    result = np.empty(n, np.int64)
    result[order] = order[kept]
    return result, semantic


def hashes_of(phash: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Turn strings of 16 hex digits into numbers, null into 0."""
    text = "".join(pc.fill_null(phash, "0" * 16).to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


def thumbnails_of(thumbnail: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Turn thumbnails into an array [n, 192] and the mask [n] of them."""
    known = pc.equal(pc.fill_null(pc.binary_length(thumbnail), -1), THUMBNAIL_BYTES)
    whole = pc.if_else(known, thumbnail, pa.scalar(bytes(THUMBNAIL_BYTES), thumbnail.type))
    pixels = [  # each chunk by itself: `binary` cannot hold 2 GiB, 11 million of them
        np.frombuffer(chunk.cast(pa.binary(THUMBNAIL_BYTES)).buffers()[1], np.uint8)[
            : len(chunk) * THUMBNAIL_BYTES
        ]
        for chunk in whole.chunks
        if len(chunk)
    ]
    joined = np.concatenate(pixels) if pixels else np.empty(0, np.uint8)
    return joined.reshape(-1, THUMBNAIL_BYTES), known.to_numpy()


def _best_first(rows: Candidates) -> Rows:
    worst_last = -np.where(np.isnan(rows.rank), -np.inf, rows.rank)
    table = pa.table({"new": ~rows.earlier, "rank": worst_last, "key": rows.keys})
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])
    return np.asarray(order, np.int64)


def first_of_equal_pairs(pairs: NDArray[np.uint64]) -> Rows:
    """Return for each row [n, 2] the first that equals it. (0, 0) equals nothing."""
    n = len(pairs)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable, so the first of a run is the first of all
    ordered = pairs[order]
    starts = np.ones(n, bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1) | ~ordered[1:].any(axis=1)
    first = np.empty(n, np.int64)
    first[order] = order[np.maximum.accumulate(np.where(starts, np.arange(n), 0))]
    return first


def _first_of_equal(codes: NDArray[Any]) -> Rows:
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _near(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    radius: int,
    where: Rows | None = None,
    others: int = 0,
) -> Rows:
    """Return for each row, best first, the row kept in its place.

    The thumbnail of row i is ``thumbnails[where[i]]``, so that they need not be sorted: they are large.

    In rounds, every row without a better neighbour is kept and its neighbours are dropped, until none is
    left. Pairs are never stored, and what is settled is not compared again, so that ten thousand copies of
    one image do not take the time and the memory of 50 million pairs.
    """
    n = len(hashes)
    where = np.arange(n) if where is None else where
    # Identical rows share their neighbours, so one speaks for all.
    first = _first_of_identical(hashes, thumbnails, where)
    kept = np.arange(n)
    undecided = np.flatnonzero(first == kept)

    def neighbours(a: Rows, b: Rows) -> NDArray[np.bool_]:
        near = np.asarray(np.bitwise_count(hashes[a] ^ hashes[b]) <= radius)
        near[near] = _alike(thumbnails, where[a[near]], where[b[near]])
        return near

    while len(undecided):
        free = np.ones(n, bool)  # of better neighbours
        masks = masks_of(radius, len(undecided) + others)
        for runs in _runs(hashes, undecided, masks):
            for better, worse in runs.pairs(free):
                free[worse[neighbours(better, worse)]] = False
        blocked = ~free
        for runs in _runs(hashes, undecided, masks):
            for better, worse in runs.pairs_with(free, blocked):
                near = neighbours(better, worse)
                kept[worse[near]] = better[near]
                blocked[worse[near]] = False
        undecided, others = undecided[blocked[undecided]], 0  # as all others are kept now
    return kept[first]


def _first_of_identical(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], where: Rows) -> Rows:
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    both = np.concatenate([hashes[rows].view(np.uint8).reshape(-1, 8), thumbnails[where[rows]]], axis=1)
    first = np.arange(len(hashes))
    if len(rows):
        first[rows] = rows[_first_of_equal(both.view(f"V{both.shape[1]}").ravel())]
    return first


def _alike(thumbnails: NDArray[np.uint8], a: Rows, b: Rows) -> NDArray[np.bool_]:
    alike = np.empty(len(a), bool)
    for start in range(0, len(a), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        one, other = thumbnails[a[part]], thumbnails[b[part]]
        alike[part] = (np.maximum(one, other) - np.minimum(one, other)).max(axis=1) <= COLOUR_TOLERANCE
    return alike


@dataclass(frozen=True)
class Runs:
    """Sorted rows, those of equal masked hashes together, best first."""

    rows: Rows
    start: Rows  # place at which the run of a place starts

    @classmethod
    def of(cls, masked: NDArray[np.uint64], rows: Rows) -> "Runs":
        """Runs of rows, given in the order of their masked hashes."""
        starts = np.flatnonzero(np.append(True, masked[1:] != masked[:-1]))
        return cls(rows, np.repeat(starts, np.diff(starts, append=len(rows))))

    def pairs(self, open_: NDArray[np.bool_]) -> Iterator[tuple[Rows, Rows]]:
        """Pair each row with all better ones of its run, nearest first. It ends where `open_` does."""
        places, gap = np.flatnonzero(self.start < np.arange(len(self.rows))), 1
        while len(places):
            yield self.rows[places - gap], self.rows[places]
            gap += 1
            places = places[(places - gap >= self.start[places]) & open_[self.rows[places]]]

    def pairs_with(self, centre: NDArray[np.bool_], other: NDArray[np.bool_]) -> Iterator[tuple[Rows, Rows]]:
        """Pair each `other` row with its run's better rows that are centres."""
        centres = np.flatnonzero(centre[self.rows])
        places = np.flatnonzero(other[self.rows])
        nearest = np.searchsorted(centres, places) - 1  # the last centre before a place
        while len(places):
            inside = (nearest >= 0) & (centres[nearest] >= self.start[places])
            places, nearest = places[inside], nearest[inside]
            yield self.rows[centres[nearest]], self.rows[places]
            open_ = other[self.rows[places]]
            places, nearest = places[open_], nearest[open_] - 1


def _runs(hashes: NDArray[np.uint64], rows: Rows, masks: list[np.uint64]) -> Iterator[Runs]:
    for mask in masks:
        masked = hashes[rows] & mask
        order = np.argsort(masked, kind="stable")
        yield Runs.of(masked[order], rows[order])


def masks_of(radius: int, n: int) -> list[np.uint64]:
    """Return masks; hashes within `radius` bits agree under one of them.

    Cut into radius + m bands, they agree in at least m of them (pigeonhole): so there is a mask for each
    choice of m. The m is that of least work for n hashes.
    """

    def work(m: int) -> float:
        pairs = n * n / 2 / 2 ** (64 * m / (radius + m))
        return comb(radius + m, m) * (n * 20 + pairs)  # a sort costs about 20 comparisons a row

    m = min(range(1, 6), key=work)
    edges = np.linspace(0, 64, radius + m + 1).round().astype(int)
    bands = [(1 << int(end)) - (1 << int(start)) for start, end in pairwise(edges)]
    return [np.uint64(sum(choice)) for choice in combinations(bands, m)]
