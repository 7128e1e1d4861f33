"""Data files without the rows that were taken down: of staged shards, and of the tables on every branch."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom import __version__
from rasterloom.pipelines import staging
from rasterloom.pipelines.reading import FIRST, GONE, first_of, read_file
from rasterloom.pipelines.staging import Published
from rasterloom.pipelines.tombstones import Tombstones
from rasterloom.storage import Store
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.record import Record
from rasterloom.versions.refs import refs
from rasterloom.versions.replace import entries, replace_files
from rasterloom.versions.tables import MAIN, TABLES, Corpus, DataFile

DERIVED = ("lengths", "report", "sample")  # steps whose folders show or count single rows: made anew
AT_ONCE = 8  # files that are looked at
T = TypeVar("T")
Advance = Callable[[str, int, int], None]  # what is looked at, how many of how many


def silent(what: str, done: int, total: int) -> None:
    pass


def apply(
    corpus: Corpus, known: Tombstones, *, dry_run: bool = False, advance: Advance = silent
) -> dict[str, int]:
    """Take what is known to be taken down out of staged shards and of all tables, on every branch.

    Returns:
        How many rows went (or would go), by table; of branches other than main ``table@branch``.
    """
    cleaner = Cleaner(corpus.store, known, dry_run)
    if not dry_run:
        _clean_staging(corpus, cleaner, advance)
    gone: dict[str, int] = {}
    branches = [ref.name for ref in refs(corpus) if ref.kind == "branch"]
    for branch in branches:
        at = replace(corpus, ref=branch)
        for name in TABLES:
            if lost := _clean_table(at, name, cleaner, advance):
                gone[name if branch == MAIN else f"{name}@{branch}"] = lost
    if gone and not dry_run:
        _forget(corpus)
    return gone


def without(store: Store, place: str, result: Published, step: str, known: Tombstones) -> Published:
    """A shard that was published, without what was taken down since."""
    if result.tombstones >= known.number:
        return result
    return Cleaner(store, known).published(f"{place}/shards/{result.id}.json", result, step)


class Cleaner:
    """Writes data files anew without what was taken down, each one once."""

    def __init__(self, store: Store, known: Tombstones, dry_run: bool = False) -> None:
        self.store, self.known, self.dry_run = store, known, dry_run
        self._done: dict[str, Cleaned] = {}

    def published(self, name: str, result: Published, step: str) -> Published:
        """A shard's result without the rows; where it has any, what is published under ``name`` changes."""
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
            tombstones=self.known.number,
        )
        if any(change):
            staging.publish_anew(self.store, name, clean)
        return clean

    def file(self, file: DataFile, step: str) -> "Cleaned":
        """The file that takes a data file's place; itself if nothing of it was taken down."""
        if file.name not in self._done:
            self._done[file.name] = self._file(file, step)
        return self._done[file.name]

    def _file(self, file: DataFile, step: str) -> "Cleaned":
        if not self._is_hit(file, step.split("/")[0]):
            return Cleaned(file.name, file.rows)
        table = read_file(self.store, file.name)
        left, change = self.known.without(table, step)
        if not change:
            return Cleaned(file.name, file.rows)
        gone = table.num_rows - left.num_rows
        if self.dry_run or not left.num_rows:
            return Cleaned(None, left.num_rows, gone, change)
        if step == "pairs":
            left = self._with_first(file, table, left)
        base = file.name.removesuffix(".parquet")
        name = f"{base}-t{self.known.number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        self.store.write_parquet(name, left, **self._options(file, step))
        return Cleaned(name, left.num_rows, gone, change)

    def _is_hit(self, file: DataFile, kind: str) -> bool:
        with self.store.filesystem.open_input_file(self.store.path(file.name)) as source:
            reader = pq.ParquetFile(source)
            if "key" not in reader.schema_arrow.names:
                return False
            keys = reader.read(columns=["key"])["key"]
            if pc.any(pc.is_in(keys, self.known.keys)).as_py():
                return True
            if kind == "pairs":
                return bool(pc.any(self.known.hit_pairs(reader.read(columns=["key", "url", "more"]))).as_py())
            if kind == "images":
                light = ["key", "status", "url", "final_url", "sha256", "phash", "more.list.element.sha256"]
                rows = reader.read(columns=light)
                hit = pc.and_(pc.equal(rows["status"], "ok"), self.known.hit_images(rows))
                return bool(pc.any(hit).as_py())
        return False

    def _with_first(self, file: DataFile, table: pa.Table, left: pa.Table) -> pa.Table:
        """Note which rows of the first file are out (`reading.first_of`)."""
        first = first_of(self.store, file)
        there = [n for n in range(first.rows) if n not in set(first.gone)]
        out = pc.invert(pc.is_in(table["key"], left["key"].combine_chunks())).to_pylist()
        gone = sorted({*first.gone, *(n for n, is_out in zip(there, out, strict=True) if is_out)})
        metadata = {**(left.schema.metadata or {}), FIRST: first.name, GONE: json.dumps(gone)}
        return left.replace_schema_metadata(metadata)

    def _options(self, file: DataFile, step: str) -> dict[str, Any]:
        from rasterloom.pipelines.corpus import IMAGE_PARQUET, TEXT_PARQUET
        from rasterloom.pipelines.token_steps import CODES_PARQUET, TOKEN_PARQUET

        kind = step.split("/")[0]
        known = {"images": IMAGE_PARQUET, "tokens": TOKEN_PARQUET, "codes": CODES_PARQUET}
        with self.store.filesystem.open_input_file(self.store.path(file.name)) as source:
            rows = pq.ParquetFile(source).metadata.row_group(0).num_rows
        return {**known.get(kind, TEXT_PARQUET), "row_group_size": rows}


@dataclass(frozen=True)
class Cleaned:
    """What became of a data file."""

    name: str | None  # None: nothing is left of it, or it was a dry run
    rows: int
    gone: int = 0
    change: dict[str, int] = field(default_factory=dict)  # of counts


def _clean_staging(corpus: Corpus, cleaner: Cleaner, advance: Advance) -> None:
    store, top = corpus.store, f"{corpus.name}/staging/"
    names = [name for name in store.list(top.rstrip("/")) if staging.is_published(name)]

    def clean(name: str) -> None:
        step = name.removeprefix(top).rsplit("/", 3)[0]
        result = staging.read_published(store, name)
        if result.tombstones < cleaner.known.number:
            cleaner.published(name, result, step)

    spread(clean, names, "looking at staged shards", advance)


def _clean_table(corpus: Corpus, name: str, cleaner: Cleaner, advance: Advance) -> int:
    """Commit a table without the rows, step by step, as each has a record of its own; return how many."""
    total = 0
    while True:
        table = corpus.table(name)
        files = entries(corpus, table) if table is not None else {}

        def look(file: str, files: Any = files) -> Cleaned:
            entry = files[file]
            return cleaner.file(DataFile(file, entry.record_count), _step_of(name, entry))

        cleaned = dict(zip(files, spread(look, list(files), f"looking at {name}", advance), strict=True))
        hit = {file: c for file, c in cleaned.items() if c.change}
        steps = sorted({_step_of(name, files[file]) for file in hit})
        if cleaner.dry_run or not steps:
            return total + sum(c.gone for c in hit.values())
        step = steps[0]
        mine = {file: c for file, c in hit.items() if _step_of(name, files[file]) == step}
        if replace_files(
            corpus,
            name,
            {file: c.name for file, c in mine.items()},
            _record(corpus, table, step, mine, cleaner),
        ):
            total += sum(c.gone for c in mine.values())


def _step_of(table: str, entry: Any) -> str:
    return f"tokens/{entry.partition[0]}" if table == "tokens" else table


def _record(corpus: Corpus, table: Any, step: str, hit: dict[str, Cleaned], cleaner: Cleaner) -> Record:
    """The step's record as it was, with the counts as they are now."""
    last = head_snapshot(corpus, table, step)
    assert last is not None
    record = last[1]
    return replace(
        record,
        parents={
            **record.parents,
            "taken down": str(cleaner.known.number),
            "earlier": str(last[0].snapshot_id),
        },
        counts=staging.add_up([record.counts, *(c.change for c in hit.values())]),
        rows=record.rows - sum(c.gone for c in hit.values()),
    ).signed(record.recipe, __version__)


def _forget(corpus: Corpus) -> None:
    """Let steps whose results show single rows be made again."""
    for step in DERIVED:
        for place in ("records", "files"):
            for name in corpus.store.list(f"{corpus.name}/{place}/{step}"):
                corpus.store.delete(name)


def spread(work: Callable[[str], T], names: list[str], what: str, advance: Advance) -> list[T]:
    """Do something with each of some files, several at once."""
    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, one in enumerate(pool.map(work, names), 1):
            found.append(one)
            advance(what, number, len(names))
    return found
