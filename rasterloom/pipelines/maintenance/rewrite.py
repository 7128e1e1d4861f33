"""Rewriting of data files without the rows that were taken down."""

import json
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.pipelines.workspace.tombstones import Tombstones
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import FIRST, GONE, DataFile, first_of, read_file
from rasterloom.storage.parquet_options import (
    CODES_PARQUET,
    IMAGE_PARQUET,
    PROMPTS_PARQUET,
    TEXT_PARQUET,
    TOKEN_PARQUET,
)
from rasterloom.storage.store import Store
from rasterloom.utils.parallel import spread

# Options of writing, by kind of step; TEXT_PARQUET for the others.
PARQUET: dict[StepKind | None, dict[str, Any]] = {
    StepKind.IMAGES: IMAGE_PARQUET,
    StepKind.TOKENS: TOKEN_PARQUET,
    StepKind.CODES: CODES_PARQUET,
    StepKind.PROMPTS: PROMPTS_PARQUET,
}


def without(
    store: Store, place: str, results: list[Published], step: str, known: Tombstones
) -> list[Published]:
    """Published shards without the rows taken down since."""
    cleaner = Cleaner(store, known)
    return spread(partial(cleaner.published, place, step=step), results)


class Cleaner:
    """Writes data files anew without what was taken down, each one once."""

    def __init__(self, store: Store, known: Tombstones, dry_run: bool = False) -> None:
        self.store, self.known, self.dry_run = store, known, dry_run
        self._done: dict[str, Cleaned] = {}

    def published(self, place: str, result: Published, step: str) -> Published:
        """A shard's result without the rows. Where it has any, what is published of it changes."""
        if result.takedowns >= self.known.number:
            return result
        files: dict[str, int] = {}
        change: list[dict[str, int]] = []
        for file, rows in result.files.items():
            cleaned = self.file(DataFile(file, rows), step)
            change.append(cleaned.change)
            if cleaned.rows or not cleaned.gone:
                files[cleaned.name or file] = cleaned.rows
        clean = replace(
            result,
            files=files,
            rows=sum(files.values()),
            counts=staging.add_up([result.counts, *change]),
            takedowns=self.known.number,
            taken_down=self.known.number if any(change) else result.taken_down,
            footers={name: text for name, text in result.footers.items() if name in files},
        )
        if any(change):
            staging.publish_anew(self.store, place, clean)
        return clean

    def file(self, file: DataFile, step: str) -> "Cleaned":
        """The file that takes a data file's place. Itself if nothing of it was taken down."""
        if file.name not in self._done:
            self._done[file.name] = self._file(file, step)
        return self._done[file.name]

    def _file(self, file: DataFile, step: str) -> "Cleaned":
        if not self._is_hit(file, StepKind.of(step)):
            return Cleaned(file.name, file.rows)
        table = read_file(self.store, file.name)
        left, change = self.known.without(table, step)
        if not change:
            return Cleaned(file.name, file.rows)
        gone = table.num_rows - left.num_rows
        if self.dry_run or not left.num_rows:
            return Cleaned(None, left.num_rows, gone, change)
        if StepKind.of(step) is StepKind.PAIRS:
            left = self._with_first(file, table, left)
        base = file.name.removesuffix(".parquet")
        name = f"{base}-t{self.known.number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        self.store.write_parquet(name, left, **self._options(file, step))
        return Cleaned(name, left.num_rows, gone, change)

    def _is_hit(self, file: DataFile, kind: StepKind | None) -> bool:
        with self.store.filesystem.open_input_file(self.store.path(file.name)) as source:
            reader = pq.ParquetFile(source)
            if "key" not in reader.schema_arrow.names:
                return False
            keys = reader.read(columns=["key"])["key"]
            if pc.any(pc.is_in(keys, self.known.keys)).as_py():
                return True
            if not self.known.looks_at_rows:
                return False
            if kind is StepKind.PAIRS:
                return bool(pc.any(self.known.hit_pairs(reader.read(columns=["key", "url", "more"]))).as_py())
            if kind is StepKind.IMAGES:
                light = ["key", "status", "url", "final_url", "sha256", "phash", "more.list.element.sha256"]
                rows = reader.read(columns=light)
                hit = pc.and_(pc.equal(rows["status"], "ok"), self.known.hit_images(rows))
                return bool(pc.any(hit).as_py())
        return False

    def _with_first(self, file: DataFile, table: pa.Table, left: pa.Table) -> pa.Table:
        """Note which rows of the first file are out (`reading.first_of`)."""
        first = first_of(self.store, file)
        there = np.setdiff1d(np.arange(first.rows), first.gone)
        out = pc.invert(pc.is_in(table["key"], left["key"].combine_chunks())).to_numpy()
        gone = sorted([*first.gone, *there[out].tolist()])
        metadata = {**(left.schema.metadata or {}), FIRST: first.name, GONE: json.dumps(gone)}
        return left.replace_schema_metadata(metadata)

    def _options(self, file: DataFile, step: str) -> dict[str, Any]:
        with self.store.filesystem.open_input_file(self.store.path(file.name)) as source:
            rows = pq.ParquetFile(source).metadata.row_group(0).num_rows
        return {**PARQUET.get(StepKind.of(step), TEXT_PARQUET), "row_group_size": rows}


@dataclass(frozen=True)
class Cleaned:
    """A data file after its rows were taken out."""

    name: str | None  # None: nothing is left of it, or it was a dry run
    rows: int
    gone: int = 0
    change: dict[str, int] = field(default_factory=dict)  # of counts
