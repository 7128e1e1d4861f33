"""Sampling weights of a corpus's pairs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rasterloom.pipelines.corpus.image_groups import Numbers, key_numbers, read_columns
from rasterloom.recipe.sources import Source
from rasterloom.schema import StepKind
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus


@dataclass(frozen=True)
class PairWeights:
    """Weights other than 1, by the keys of pairs."""

    keys: Numbers
    """Sorted, as numbers."""
    weights: NDArray[np.float64]

    def of(self, keys: pa.ChunkedArray) -> NDArray[np.float64]:
        """Return the weight of each row; 1 where there is none."""
        if not len(self.keys):
            return np.ones(len(keys))
        numbers, known = key_numbers(keys)
        at = np.minimum(np.searchsorted(self.keys, numbers), len(self.keys) - 1)
        return np.where(known & (self.keys[at] == numbers), self.weights[at], 1.0)


def has_weights(sources: Iterable[Source]) -> bool:
    """True if a source gives its pairs a weight."""
    return any(source.weight != 1.0 for source in sources)


def is_weighted(corpus: Corpus) -> bool:
    """True if pairs of a version have weights.

    The recipe that made it says so or, if they were imported, their files.
    """
    found = head_snapshot(corpus, corpus.table("pairs"), StepKind.PAIRS.value)
    if found is None:
        return False
    sources = found[1].config.get("sources")
    if sources is not None:
        return any(source.get("weight", 1.0) != 1.0 for source in sources)
    return any(len(table) for table in _other_than_one(corpus))


def read_weights(corpus: Corpus) -> PairWeights:
    """Read the weights of a corpus's pairs. Holds 16 bytes for each that is not 1 or NULL."""
    keys, weights = [np.zeros(0, np.uint64)], [np.zeros(0)]
    for table in _other_than_one(corpus):
        keys.append(key_numbers(table["key"])[0])
        weights.append(table["weight"].to_numpy())
    of_all = np.concatenate(keys)
    order = np.argsort(of_all, kind="stable")
    return PairWeights(of_all[order], np.concatenate(weights)[order])


def _other_than_one(corpus: Corpus) -> Iterator[pa.Table]:
    """Keys and weights of pairs, those with a weight other than 1.

    What is no weight, NULL or in an imported file 0 or NaN, is left out.
    """
    usable = (pc.field("weight") > 0) & pc.is_finite(pc.field("weight")) & (pc.field("weight") != 1.0)
    for table in read_columns(corpus.store, corpus.files("pairs"), ["key", "weight"]):
        if "weight" in table.column_names:
            yield table.filter(usable)
