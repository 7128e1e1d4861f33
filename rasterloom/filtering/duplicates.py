"""Duplicates: the same bytes (sha256), or nearly the same picture (pHash and thumbnail)."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[np.int64]

THUMBNAIL_BYTES = 192  # 8 x 8 RGB
COLOUR_TOLERANCE = 16  # of 255; see `find_duplicates`
_AT_ONCE = 1 << 18  # thumbnail pairs compared in one go


def find_duplicates(
    keys: pa.Array | pa.ChunkedArray,
    sha256: pa.Array | pa.ChunkedArray,
    phash: pa.Array | pa.ChunkedArray,
    thumbnail: pa.Array | pa.ChunkedArray,
    rank: NDArray[np.float64],
    *,
    exact: bool,
    radius: int | None,
) -> Rows:
    """Return for each row the number of the row that is kept in its place: its own where it is kept itself.

    Rows are taken from the best to the worst: by `rank` [n], higher first and NaN last, then by key. Each is
    kept unless it doubles a row that is already kept. So there are no chains: a dropped row points to a kept
    one, and is itself a double of it.

    Args:
        keys: string [n]
        sha256: string [n]; equal ones are exact duplicates if `exact`
        phash: string [n] of 16 hex digits
        thumbnail: binary [n] of 192 bytes, 8 x 8 RGB
        rank: float64 [n]
        exact: seek exact duplicates
        radius: seek near duplicates, whose hashes differ in at most so many of 64 bits; not if None

    pHash sees luma and only its coarse forms: by it alone, a red and a blue circle on white are the same
    picture, and so are all plain pages. So near duplicates must also agree in their thumbnails, to
    `COLOUR_TOLERANCE` in every value. Resizing and recompressing a picture changes them by less than that.
    Null matches nothing.
    """
    order = _best_first(keys, rank)
    kept = np.arange(len(order))  # in terms of places in `order`, here and below
    if exact:
        kept = _first_of_equal(_codes(sha256)[order])
    if radius is not None:
        places = np.flatnonzero(kept == np.arange(len(order)))
        rows = order[places]
        known = _known(phash, thumbnail, rows)
        places, rows = places[known], rows[known]
        near = _near(_hashes(phash, rows), _thumbnails(thumbnail, rows), radius)
        kept[places] = places[near]
        kept = kept[kept]  # what doubled a row exactly that is now dropped follows it to the row kept
    result = np.empty(len(order), np.int64)
    result[order] = order[kept]
    return result


def _best_first(keys: pa.Array | pa.ChunkedArray, rank: NDArray[np.float64]) -> Rows:
    table = pa.table({"rank": -np.where(np.isnan(rank), -np.inf, rank), "key": keys, "row": np.arange(len(rank))})
    return pc.sort_indices(table, sort_keys=[(c, "ascending") for c in table.column_names]).to_numpy()


def _codes(values: pa.Array | pa.ChunkedArray) -> Rows:
    """Number equal strings alike and every null apart."""
    chunked = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    indices = chunked.combine_chunks().dictionary_encode().indices
    codes = pc.fill_null(indices.cast(pa.int64()), -1).to_numpy().copy()
    nulls = np.flatnonzero(codes < 0)
    codes[nulls] = len(codes) + nulls
    return codes


def _first_of_equal(codes: Rows) -> Rows:
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse]


def _known(phash: pa.ChunkedArray, thumbnail: pa.ChunkedArray, rows: Rows) -> NDArray[np.bool_]:
    sizes = pc.fill_null(pc.binary_length(thumbnail), -1).to_numpy()[rows]
    return (sizes == THUMBNAIL_BYTES) & pc.is_valid(phash).to_numpy(zero_copy_only=False)[rows]


def _hashes(phash: pa.ChunkedArray, rows: Rows) -> NDArray[np.uint64]:
    text = "".join(pc.take(phash, pa.array(rows)).to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


def _thumbnails(thumbnail: pa.ChunkedArray, rows: Rows) -> NDArray[np.uint8]:
    taken = pc.take(thumbnail.cast(pa.large_binary()), pa.array(rows)).cast(pa.binary(THUMBNAIL_BYTES))
    return np.concatenate(
        [np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, THUMBNAIL_BYTES)[chunk.offset :][: len(chunk)]
         for chunk in taken.chunks] or [np.empty((0, THUMBNAIL_BYTES), np.uint8)]
    )  # fmt: skip


def _near(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], radius: int) -> Rows:
    """Return for each row, sorted from the best, the row kept in its place.

    In rounds, every row without a better neighbour is kept and its neighbours are dropped, until none is
    left. Pairs are found anew in each round rather than stored, so that ten thousand copies of one
    picture do not take the memory of 50 million pairs.
    """
    n = len(hashes)
    first = _first_of_identical(hashes, thumbnails)  # they share their neighbours, so one speaks for all
    kept = np.arange(n)
    undecided = np.flatnonzero(first == kept)
    while len(undecided):
        free, alone = np.ones(n, bool), np.ones(n, bool)
        for better, worse in _neighbours(hashes, thumbnails, undecided, radius):
            free[worse] = alone[worse] = alone[better] = False
        undecided = undecided[~alone[undecided]]
        for better, worse in _neighbours(hashes, thumbnails, undecided, radius):
            double = free[better]
            kept[worse[double]] = better[double]
        undecided = undecided[(kept[undecided] == undecided) & ~free[undecided]]
    return kept[first]


def _first_of_identical(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> Rows:
    whole = np.concatenate([hashes.view(np.uint8).reshape(-1, 8), thumbnails], axis=1)
    values = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(whole.shape[1]), len(whole), [None, pa.py_buffer(whole)]
    )
    return _first_of_equal(_codes(values))


def _neighbours(
    hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], rows: Rows, radius: int
) -> Iterator[tuple[Rows, Rows]]:
    """Find the pairs of near duplicates among `rows` (rising), each once or more, the better row first.

    Cut into radius + m bands, two hashes that differ in at most `radius` bits agree in at least m bands
    (pigeonhole). So sort by each choice of m bands, and compare what stands together.
    """
    hashes_of_rows = hashes[rows]
    for mask in _masks(radius, len(rows)):
        masked = hashes_of_rows & mask
        order = np.argsort(masked, kind="stable")
        masked = masked[order]
        last = np.flatnonzero(np.append(masked[1:] != masked[:-1], True)) if len(rows) else np.empty(0, int)
        run_end = np.repeat(last, np.diff(last, prepend=-1))
        sorted_rows = rows[order]
        places, gap = np.flatnonzero(run_end > np.arange(len(rows))), 1
        while len(places):
            better, worse = sorted_rows[places], sorted_rows[places + gap]
            close = np.bitwise_count(hashes[better] ^ hashes[worse]) <= radius
            better, worse = better[close], worse[close]
            for start in range(0, len(better), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                alike = _alike(thumbnails[better[part]], thumbnails[worse[part]])
                yield better[part][alike], worse[part][alike]
            gap += 1
            places = places[run_end[places] >= places + gap]


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (np.maximum(a, b) - np.minimum(a, b)).max(axis=1) <= COLOUR_TOLERANCE  # type: ignore[no-any-return]


def _masks(radius: int, n: int) -> list[np.uint64]:
    """Return the masks of m of radius + m bands, with the m that makes the least work for n hashes."""

    def work(m: int) -> float:
        pairs = n * n / 2 / 2 ** (64 * m / (radius + m))
        return comb(radius + m, m) * (n * 20 + pairs)  # a sort costs about 20 comparisons a row

    m = min(range(1, 6), key=work)
    edges = np.linspace(0, 64, radius + m + 1).round().astype(int)
    bands = [(1 << int(end)) - (1 << int(start)) for start, end in pairwise(edges)]
    return [np.uint64(sum(choice)) for choice in combinations(bands, m)]
