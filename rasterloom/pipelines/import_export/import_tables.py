"""Import of Parquet files as the next version of a table.

Files in the workspace that already have the table's columns are used in place. Others are read a shard at a
time and rewritten into the workspace with the missing columns: keys from URL and caption, and for images
their sizes and hashes.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom import __version__
from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.existing_steps import is_fixed, refuse_change
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import IMAGES, PAIRS, SCORES, SELECTION, T2I, pair_key
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.row import image_columns, received
from rasterloom.storage.parquet_options import IMAGE_PARQUET, TEXT_PARQUET
from rasterloom.storage.store import Entry, Store
from rasterloom.utils.parallel import Advance, silent
from rasterloom.utils.suggest import did_you_mean
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import made
from rasterloom.versions.record import Record
from rasterloom.versions.workspace_check import check_workspace

SCHEMAS = {"pairs": PAIRS, "images": IMAGES, "scores": SCORES, "selection": SELECTION}
MADE_OF = {"pairs": (), "images": ("pairs",), "scores": ("images",), "selection": ("images", "scores")}
NO_SCORES = ("weight",)  # columns of an export that are numbers, and no scores
KEY_COLUMNS = ("url", "caption")  # that a key is made of
DEFAULTS = {"task": T2I, "source": "adopted", "weight": 1.0}


@dataclass(frozen=True)
class Adopted:
    """Result of an import."""

    snapshot_id: int
    rows: int
    in_place: int  # files that are used in place
    written: int  # files that were rewritten


def adopt(
    recipe: Recipe,
    table: str,
    path: str,
    columns: Mapping[str, str],
    advance: Advance = silent,
) -> Adopted:
    """Import Parquet files as the next version of a table. The same files give the same version.

    Args:
        table: pairs, images, scores or selection.
        path: a file, or a folder whose files are taken in the order of their names; on a disk or S3.
        columns: the table's column -> the files' column, where they are named otherwise.
        advance: called with the number of files done, and of all.

    Raises:
        RecipeError: there is no file, or a column is missing or of another type.
        StorageError: the recipe's corpus is a tag or a snapshot.
    """
    corpus = Corpus.of(recipe)
    if table not in SCHEMAS:
        known = did_you_mean(table, SCHEMAS, "it takes ")
        raise RecipeError(f"no table {table} can be imported; {known}")
    if is_fixed(corpus):
        refuse_change(corpus, "adopt")
    check_workspace(corpus)
    started = time.monotonic()
    source, files = _files(path)
    config = {"adopted": [[f.name, f.size, f.stamp] for f in files], "columns": dict(columns)}
    fingerprint = hashlib.blake2b(json.dumps([table, config]).encode(), digest_size=10).hexdigest()
    schema = _schema(table, source, files, columns)
    writer = _Writer(corpus, table, schema, columns, recipe.fetch, fingerprint)
    for number, file in enumerate(files):
        mine = _in_workspace(corpus.store, source, file)
        if mine and not columns and _fits(source, file.name, schema):
            writer.take(mine, file.size, _reader(source, file.name).metadata.num_rows)
        else:
            writer.write(source, file.name)
        advance(number + 1, len(files))
    versions = {v.record.step: v for v in made(corpus)}
    given = {name: versions[name] for name in MADE_OF[table] if name in versions}
    record = Record(
        step=table,
        fingerprint=fingerprint,
        code_version="adopted",
        config=config,
        inputs={name: version.record.fingerprint for name, version in given.items()},
        parents={name: str(version.snapshot_id) for name, version in given.items()},
        counts={"adopted": writer.rows},
        rows=writer.rows,
        n_bytes=writer.size,
        shards=len(writer.names),
        seconds=time.monotonic() - started,
    ).signed(recipe.digest, __version__)
    snapshot_id = commit(corpus, table, schema, writer.names, record)
    return Adopted(snapshot_id, writer.rows, writer.in_place, len(writer.names) - writer.in_place)


class _Writer:
    """Files of the new version: those used in place, and those written with the missing columns."""

    def __init__(
        self,
        corpus: Corpus,
        table: str,
        schema: pa.Schema,
        columns: Mapping[str, str],
        fetch: Fetch,
        fingerprint: str,
    ) -> None:
        self.corpus, self.table, self.schema, self.columns = corpus, table, schema, columns
        self.fetch, self.fingerprint = fetch, fingerprint
        self.shards = _Shards(corpus, table)
        self.names: list[str] = []
        self.rows = self.size = self.in_place = 0

    def take(self, name: str, size: int, rows: int) -> None:
        """Use a file of the workspace in place."""
        self.names.append(name)
        self.rows, self.size, self.in_place = self.rows + rows, self.size + size, self.in_place + 1

    def write(self, source: Store, file: str) -> None:
        """Write a file's rows as shards of the table."""
        options = IMAGE_PARQUET if self.table == "images" else TEXT_PARQUET
        for part in _tables(source, file, self.fetch.shard_rows):
            rows = self._rows(part, file)
            name = self.corpus.layout.adopted(self.table, self.fingerprint, len(self.names))
            self.size += self.corpus.store.write_parquet(name, rows, **options)
            self.names.append(name)
            self.rows += rows.num_rows

    def _rows(self, given: pa.Table, file: str) -> pa.Table:
        """Rows in the table's schema, with the columns that the file lacks."""
        rows = _with_keys(_renamed(given, self.schema, self.columns), file)
        if self.table == "images" and "status" not in rows.column_names:
            rows = _images(rows, self.fetch, file)
        elif self.table == "selection":
            rows = _with_reasons(rows)
        found = [self._column(rows, field, file) for field in self.schema]
        return pa.Table.from_arrays(found, schema=self.schema)

    def _column(self, rows: pa.Table, field: pa.Field, file: str) -> pa.ChunkedArray | pa.Array:
        if field.name == "shard":
            return self.shards.of(rows["key"].combine_chunks().cast(pa.string()), file)
        if field.name in rows.column_names:
            column = rows[field.name]
            try:
                return column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                message = f"{file}: {field.name} is {column.type}, and {self.table} takes {field.type}"
                raise RecipeError(message) from None
        value = DEFAULTS.get(field.name) if self.table in ("pairs", "images") else None
        return pa.repeat(pa.scalar(value, field.type), len(rows))


def _files(path: str) -> tuple[Store, list[Entry]]:
    """Parquet files at a path by name, and their store."""
    if path.endswith(".parquet"):
        folder, _, name = path.rpartition("/")
        store = Store(folder if path.startswith("s3://") else str(Path(path).resolve().parent))
        name = name or path
        try:
            return store, [store.entry(name)]
        except OSError:
            raise RecipeError(f"{path}: no such file") from None
    store = Store(path.rstrip("/") if path.startswith("s3://") else str(Path(path).resolve()))
    try:
        found = [entry for entry in store.entries() if entry.name.endswith(".parquet")]
    except OSError:
        found = []
    if not found:
        raise RecipeError(f"{path}: no Parquet file there")
    return store, sorted(found, key=lambda entry: entry.name)


def _reader(store: Store, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(store.path(name), filesystem=store.filesystem)
    except pa.ArrowInvalid as error:
        raise RecipeError(f"{name}: no Parquet file: {error}") from None


def _in_workspace(workspace: Store, source: Store, file: Entry) -> str | None:
    """Name of a file in the workspace, None for one outside."""
    uri = source.uri(file.name)
    return workspace.name_of(uri) if workspace.holds(uri) else None


def _fits(store: Store, name: str, schema: pa.Schema) -> bool:
    found = _reader(store, name).schema_arrow
    ids = any(b"PARQUET:field_id" in (field.metadata or {}) for field in found)  # Iceberg wants none
    return not ids and found.remove_metadata().equals(schema.remove_metadata())


def _schema(table: str, store: Store, files: Sequence[Entry], columns: Mapping[str, str]) -> pa.Schema:
    """Schema of the table. Of scores with every floating-point column, or the named ones."""
    schema = SCHEMAS[table]
    for ours in columns:
        if table != "scores" and ours not in (*schema.names, "url", "caption"):  # the two give the key
            message = f"{table} has no such column; it has {', '.join(schema.names)}"
            raise RecipeError(message, field="column", value=ours)
    for file in files:
        there = _reader(store, file.name).schema_arrow
        for ours, theirs in columns.items():
            if theirs not in there.names:
                has = ", ".join(there.names)
                message = f"{file.name} has no column {theirs}; it has {has}"
                raise RecipeError(message, field="column", value=f"{ours}={theirs}")
    if table != "scores":
        return schema
    there = _reader(store, files[0].name).schema_arrow
    named = [ours for ours in columns if ours not in (*SCORES.names, "url", "caption")]
    scores = named or [
        f.name
        for f in there
        if pa.types.is_floating(f.type) and f.name not in (*columns.values(), *NO_SCORES)
    ]
    if not scores:
        message = f"{files[0].name} has no column of numbers that could be a score"
        raise RecipeError(message, hint="name one with {column} NAME=COLUMN")
    return pa.schema([*SCORES, *((name, pa.float64()) for name in scores)])


def _tables(store: Store, name: str, rows: int) -> Iterator[pa.Table]:
    for batch in _reader(store, name).iter_batches(batch_size=rows):
        yield pa.Table.from_batches([batch])


class _Shards:
    """Shard numbers of rows: new ones for images, else those of the images with the same keys."""

    def __init__(self, corpus: Corpus, table: str) -> None:
        self._next = 0
        self._images: pa.Table | None = None
        if table in ("scores", "selection"):
            self._images = corpus.read("images", ["key", "shard"])
            if not self._images.num_rows:
                raise RecipeError(
                    f"{table} are of images, and the corpus has none yet: adopt or fetch them first"
                )

    def of(self, keys: pa.Array, file: str) -> pa.Array:
        if self._images is None:
            self._next += 1
            return pa.repeat(pa.scalar(self._next - 1, pa.int32()), len(keys))
        at = pc.index_in(keys, self._images["key"].combine_chunks())
        if at.null_count:
            lost = keys.filter(pc.is_null(at))
            raise RecipeError(
                f"{file}: {len(lost):,} rows have keys that images does not have, such as {lost[0].as_py()}"
            )
        return self._images["shard"].combine_chunks().take(at)


def _renamed(given: pa.Table, schema: pa.Schema, columns: Mapping[str, str]) -> pa.Table:
    """Columns under the table's names, without those that it does not take."""
    named = {theirs: ours for ours, theirs in columns.items()}
    rows = given.rename_columns([named.get(name, name) for name in given.column_names])
    return rows.select([name for name in rows.column_names if name in (*schema.names, *KEY_COLUMNS)])


def _with_keys(rows: pa.Table, file: str) -> pa.Table:
    if "key" in rows.column_names:
        return rows
    there = [name for name in KEY_COLUMNS if name in rows.column_names]
    if not there:
        message = f"{file} has neither key nor url and caption"
        raise RecipeError(message, hint="name them with {column} url=COLUMN")
    keys = [pair_key(pair.get("url"), pair.get("caption")) for pair in rows.select(there).to_pylist()]
    return rows.append_column("key", pa.array(keys, pa.string()))


def _with_reasons(rows: pa.Table) -> pa.Table:
    if "kept" not in rows.column_names:
        rows = rows.append_column("kept", pa.repeat(pa.scalar(True), len(rows)))
    if "reason" not in rows.column_names:
        rows = rows.append_column("reason", pc.if_else(rows["kept"], "kept", "adopted as dropped"))
    return rows


def _images(rows: pa.Table, fetch: Fetch, file: str) -> pa.Table:
    """Images as a fetch stores them: limits, hashes and sizes are those of the recipe's ``fetch``."""
    if "image" not in rows.column_names:
        message = f"{file} has no column image"
        raise RecipeError(message, hint="name the one with the files' bytes with {column} image=COLUMN")
    found: list[dict[str, Any]] = []
    for row in rows.select(
        [n for n in rows.column_names if n in ("key", "url", "caption", "image")]
    ).to_pylist():
        data = row.pop("image")
        data = data.get("bytes") if isinstance(data, dict) else data  # as the Hugging Face form has it
        row |= {"attempts": 0, "status": "failed"}
        try:
            if not isinstance(data, bytes) or not data:
                raise FetchFailure("missing_file", "the row has no image")  # type: ignore[arg-type]
            decoded = decode_image(data, fetch)
            row |= image_columns(decoded, received(data, decoded))
        except FetchFailure as failure:
            row |= {"error": str(failure.error), "detail": failure.detail}
        found.append(row)
    return pa.Table.from_pylist(found, schema=pa.schema([f for f in IMAGES if f.name != "shard"]))
