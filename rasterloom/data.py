"""Data set of a corpus's tokens, for other trainers.

```python
from rasterloom.data import TokenDataset
from torch.utils.data import DataLoader

dataset = TokenDataset("work", "demo@v1", target=256, sequence_length=4096, rank=rank, world=world)
for batch in DataLoader(dataset, batch_size=8, num_workers=2):
    loss = model(**batch).loss
```
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from rasterloom.api import AnyRecipe, open
from rasterloom.errors import VersionError
from rasterloom.train.data.row_group_cache import COLUMNS, RowGroupPlace, RowGroups
from rasterloom.utils.random_streams import stream_generator

IGNORE = -100  # label of a token outside of the loss, as in PyTorch and transformers
WINDOW = 8  # row groups whose rows are shuffled together

Sample = dict[str, torch.Tensor]
Row = tuple[NDArray[np.int64], NDArray[np.int64]]  # tokens and labels


@dataclass(frozen=True)
class Position:
    """Place of a reader: rows that it has given of an epoch."""

    epoch: int = 0
    row: int = 0


@dataclass(eq=False)
class TokenDataset(IterableDataset[Sample]):
    """Token sequences of a corpus at one target, shuffled anew each epoch.

    Each row comes once an epoch, to one worker of one rank. A sample has ``input_ids`` and ``labels``, int64
    [n], with `IGNORE` where a token is outside of the loss. Labels are not shifted, as in transformers.

    With ``sequence_length`` a sample is several rows, whole and one after the other, padded to that length:
    ``position_ids`` begins at 0 with each row, by which packed attention tells them apart.

    `state_dict` and `load_state_dict` are those of torchdata's ``StatefulDataLoader`` and of torchtitan. With
    PyTorch's own ``DataLoader`` they hold where it has no workers.

    Args:
        place: folder of a workspace, or a recipe.
        corpus: ``name@version``; the version is a branch, a tag or a snapshot id.
        target: resolution, as in ``tokenize.targets``.
        sequence_length: tokens of a packed sample.
        rank, world: which of how many processes this is.
        epochs: passes over the rows. Without end if None: ranks have a row more or less than others, and one
            that ends before them would leave them waiting.
        pad: token that fills a packed sample.

    Attributes:
        rows: rows of all ranks together.

    Raises:
        RecipeError: there is no such corpus.
        VersionError: it has no such version, or no tokens of that target.
        ValueError: there is no such rank.
    """

    place: AnyRecipe
    corpus: str = ""
    _: KW_ONLY
    target: int
    sequence_length: int | None = None
    rank: int = 0
    world: int = 1
    seed: int = 0
    epochs: int | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"there is no rank {self.rank} of {self.world}: ranks are counted from 0")
        name, _, version = self.corpus.partition("@")
        view = open(self.place, corpus=name)
        view = view.at(version) if version else view
        store = view.corpus.store
        names = [file.name for file in view.corpus.files("tokens", where=f"target == {int(self.target)}")]
        if not names:
            there = sorted({int(file.partition[0]) for file in view.corpus.files("tokens")})
            known = ", ".join(map(str, there)) or "none yet"
            message = (
                f"{view.name}@{view.version} has no tokens of target {self.target}; its targets: {known}"
            )
            raise VersionError(message)
        self.files, self.filesystem = [store.path(file) for file in names], store.filesystem
        self._places: list[RowGroupPlace] = []
        self._sizes: list[int] = []
        self.rows = 0
        for number, file in enumerate(self.files):
            with self.filesystem.open_input_file(file) as source:
                metadata = pq.read_metadata(source)
            for group in range(metadata.num_row_groups):
                self._places.append(RowGroupPlace(number, group, self.rows))
                self._sizes.append(metadata.row_group(group).num_rows)
                self.rows += self._sizes[-1]
        self._position, self._from = Position(), Position()

    def __iter__(self) -> Iterator[Sample]:
        self._position, self._from = self._from, Position()
        rows = self._rows(self._position)
        yield from self._packed(rows) if self.sequence_length else self._single(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes to go on after the last sample."""
        position = self._position
        return {"epoch": position.epoch, "row": position.row, **self._whose()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration begin where another one was.

        Raises:
            ValueError: it was of other rows, another seed or another number of readers.
        """
        for name, value in self._whose().items():
            if state[name] != value:
                raise ValueError(f"the state is of {name} {state[name]}, but this data set has {value}")
        self._position = self._from = Position(state["epoch"], state["row"])

    def _whose(self) -> dict[str, int]:
        reader, readers = self._reader()
        return {"rows": self.rows, "seed": self.seed, "reader": reader, "readers": readers}

    def _reader(self) -> tuple[int, int]:
        """Number of this worker among those of all ranks, and their number."""
        worker = get_worker_info()
        id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.rank * workers + id, self.world * workers

    def _rows(self, position: Position) -> Iterator[tuple[Position, Row]]:
        """Yield this reader's rows with the position after each."""
        reader, readers = self._reader()
        if self.rows < readers:
            raise ValueError(f"{self.rows} rows are too few for {readers} readers (ranks x workers)")
        groups = RowGroups(self.files, self.filesystem, self._places)
        epoch, given = position.epoch, position.row
        while self.epochs is None or epoch < self.epochs:
            pieces = self._pieces(epoch, reader, readers)
            row = 0
            for number, start in enumerate(range(0, len(pieces), WINDOW)):
                window = pieces[start : start + WINDOW]
                size = sum(last - first for _, first, last in window)
                if row + size > given:
                    order = stream_generator(
                        "window", seed=self.seed, epoch=epoch, reader=reader, number=number
                    ).permutation(size)
                    tables = groups.read(group for group, _, _ in window)
                    places = [(group, at) for group, first, last in window for at in range(first, last)]
                    for done in range(max(0, given - row), size):
                        group, at = places[order[done]]
                        ids, spans = (tables[group][name][at].values.to_numpy() for name in COLUMNS)
                        yield Position(epoch, row + done + 1), _row(ids, spans)
                row += size
            epoch, given = epoch + 1, 0

    def _pieces(self, epoch: int, reader: int, readers: int) -> list[tuple[int, int, int]]:
        """Return parts of row groups: the first row, and the one after the last.

        Readers have equal parts of all row groups in one random order, so that each reads its own files.
        """
        order = stream_generator("groups", seed=self.seed, epoch=epoch).permutation(len(self._sizes))
        starts = np.cumsum([0, *np.array(self._sizes)[order]]).tolist()
        first, last = (self.rows * number // readers for number in (reader, reader + 1))
        return [
            (int(group), max(first - start, 0), min(last, end) - start)
            for group, start, end in zip(order, starts[:-1], starts[1:], strict=True)
            if start < last and end > first
        ]

    def _single(self, rows: Iterator[tuple[Position, Row]]) -> Iterator[Sample]:
        for self._position, (ids, labels) in rows:
            yield {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def _packed(self, rows: Iterator[tuple[Position, Row]]) -> Iterator[Sample]:
        assert self.sequence_length is not None
        held: list[Row] = []
        after = self._position
        for position, row in rows:
            if len(row[0]) > self.sequence_length:
                raise ValueError(
                    f"a row of {len(row[0])} tokens, but sequence_length is {self.sequence_length}"
                )
            if sum(len(ids) for ids, _ in held) + len(row[0]) > self.sequence_length:
                self._position = after
                yield self._one_of(held)
                held = []
            held.append(row)
            after = position
        if held:
            self._position = after
            yield self._one_of(held)

    def _one_of(self, rows: list[Row]) -> Sample:
        """Return rows as one sample of ``sequence_length`` tokens."""
        parts = [(ids, labels, np.arange(len(ids))) for ids, labels in rows]
        filled = zip(("input_ids", "labels", "position_ids"), zip(*parts, strict=True), strict=True)
        sample = {name: np.concatenate(values) for name, values in filled}
        rest = self.sequence_length - len(sample["labels"]) if self.sequence_length else 0
        padding = {"input_ids": np.full(rest, self.pad), "labels": np.full(rest, IGNORE)}
        padding["position_ids"] = np.arange(rest)
        return {name: torch.from_numpy(np.concatenate([sample[name], padding[name]])) for name in sample}


def _row(ids: NDArray[np.int32], spans: NDArray[np.int32]) -> Row:
    labels = np.full(len(ids), IGNORE, np.int64)
    for start, end in spans.reshape(-1, 2).tolist():
        labels[max(start, 1) : end] = ids[max(start, 1) : end]  # nothing comes before the first
    return ids.astype(np.int64), labels
