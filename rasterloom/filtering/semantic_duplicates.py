"""Semantic duplicates: near-equal CLIP embeddings, searched cluster by cluster.

Comparing all pairs of a large corpus is out of the question, so the embeddings are cut by k-means, and those
cuts again, until a cluster holds about `CLUSTER` rows; pairs are sought within a cluster (as SemDeDup does:
A. Abbas et al., arXiv 2303.09540). A cut parts some pairs, so that what one leaves is cut again elsewhere.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

CLUSTER = 4096  # rows compared with each other
BRANCHES = 64  # clusters made by one cut
SAMPLE = 64  # rows a cluster that k-means looks at
ROUNDS = 8  # of k-means
BLOCK = 512  # rows compared at once
AT_ONCE = 65_536  # rows of embeddings held at once
CUTS = 3  # of all rows, each in other places
REPAIRS = 3  # rounds for rows whose kept row was dropped by a later cut


def first_alike(embeddings: NDArray[Any], rows: Rows, similarity: float) -> Rows:
    """Return for each row, best first, the row kept for it. Both are places in `rows`.

    Args:
        embeddings: [n, d] of length 1, any float; may be mapped from a disk. NaN is like nothing.
        rows: [m], numbers of the embeddings looked at
        similarity: cosine from which on the worse of two is dropped
    """
    kept = np.arange(len(rows))
    known = [
        start + np.flatnonzero(np.isfinite(embeddings[rows[start : start + AT_ONCE], 0]))
        for start in range(0, len(rows), AT_ONCE)
    ]
    places = np.concatenate([np.empty(0, np.int64), *known])
    cuts = CUTS if len(places) > CLUSTER else 1
    for cut in range(cuts + REPAIRS * (cuts > 1)):
        if cut >= CUTS:
            lost = np.flatnonzero(kept[kept] != kept)
            if not len(lost):
                break
            kept[lost] = lost
        for cluster in _clusters(embeddings, rows, places[kept[places] == places], cut % CUTS):
            kept[cluster] = cluster[_greedy(_take(embeddings, rows[cluster]), similarity)]
    lost = np.flatnonzero(kept[kept] != kept)
    kept[lost] = lost  # no row follows one that is dropped
    return kept


def _take(embeddings: NDArray[Any], rows: Rows) -> Floats:
    return np.asarray(embeddings[rows], np.float32)


def _clusters(embeddings: NDArray[Any], rows: Rows, places: Rows, cut: int) -> Iterator[Rows]:
    """Cut places into clusters, each in rising order, best first. ``cut`` says which of several ways."""
    if len(places) <= CLUSTER:
        yield places
        return
    centres = _k_means(embeddings, rows[places], min(BRANCHES, -(-len(places) // CLUSTER) * 2 + cut), cut)
    nearest = np.concatenate(
        [
            (_take(embeddings, rows[places[start : start + AT_ONCE]]) @ centres.T).argmax(axis=1)
            for start in range(0, len(places), AT_ONCE)
        ]
    )
    for number in range(len(centres)):
        part = places[nearest == number]
        if len(part) > 0.9 * len(places):  # all but the same: no cut parts them, and few of them are kept
            yield part
        else:
            yield from _clusters(embeddings, rows, part, cut)


def _k_means(embeddings: NDArray[Any], rows: Rows, k: int, cut: int) -> Floats:
    """Return up to k centres [k, d] of length 1, by spherical k-means.

    It sees an even sample, another one for each cut.
    """
    even = np.linspace(0, len(rows) - 1, min(len(rows), k * SAMPLE)).astype(int)
    sample = _take(embeddings, rows[(even + cut * (len(rows) // (len(even) * CUTS) + 1)) % len(rows)])
    centres = sample[:: max(1, len(sample) // k)][:k].copy()
    for _ in range(ROUNDS):
        nearest = (sample @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(length > 0, sums / np.maximum(length, 1e-12), centres)
    return centres


def _greedy(embeddings: Floats, similarity: float) -> Rows:
    """From the best to the worst: each is kept unless it is like one that is kept; it points to that one."""
    kept = np.arange(len(embeddings))
    centres = np.empty(0, np.int64)
    for start in range(0, len(embeddings), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(embeddings)))
        if len(centres):
            cosine = embeddings[block] @ embeddings[centres].T
            best = cosine.argmax(axis=1)
            duplicate = cosine[np.arange(len(block)), best] >= similarity
            kept[block[duplicate]] = centres[best[duplicate]]
            block = block[~duplicate]
        alike = embeddings[block] @ embeddings[block].T >= similarity
        free = np.ones(len(block), bool)
        for i in range(len(block)):
            if free[i]:
                duplicates = alike[i] & free
                duplicates[: i + 1] = False
                kept[block[duplicates]] = block[i]
                free[duplicates] = False
        centres = np.concatenate([centres, block[free]])
    return kept
