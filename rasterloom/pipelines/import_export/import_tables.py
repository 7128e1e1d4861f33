"""Parquet files that others made, as the next version of a corpus's table.

A file that lies in the workspace and has the table's columns already is taken as it is, where it lies.
Others are read a shard at a time and written anew into the workspace, with the columns that they lack: keys
from URL and caption, and of pictures what a fetch would have found out.
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
from rasterloom.storage.parquet_options import IMAGE_PARQUET, TEXT_PARQUET
from rasterloom.storage.store import Entry, Store
from rasterloom.utils.parallel import Advance, silent
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import made
from rasterloom.versions.record import Record
from rasterloom.versions.workspace_check import check_workspace

SCHEMAS = {"pairs": PAIRS, "images": IMAGES, "scores": SCORES, "selection": SELECTION}
MADE_OF = {"pairs": (), "images": ("pairs",), "scores": ("images",), "selection": ("images", "scores")}
NO_SCORES = ("weight",)  # columns of an export that are numbers, and no scores


@dataclass(frozen=True)
class Adopted:
    snapshot_id: int
    rows: int
    in_place: int  # files that were taken where they lie
    written: int  # files that were written anew


def adopt(
    recipe: Recipe,
    table: str,
    path: str,
    columns: Mapping[str, str],
    advance: Advance = silent,
) -> Adopted:
    """Make Parquet files the next version of a table. The same files again are the same version.

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
        raise RecipeError(f"{table} cannot be adopted; what can: {', '.join(SCHEMAS)}")
    if is_fixed(corpus):
        refuse_change(corpus, "adopt")
    check_workspace(corpus)
    started = time.monotonic()
    source, files = _files(path)
    told = {"adopted": [[f.name, f.size, f.stamp] for f in files], "columns": dict(columns)}
    fingerprint = hashlib.blake2b(json.dumps([table, told]).encode(), digest_size=10).hexdigest()
    schema = _schema(table, source, files, columns)
    shards = _Shards(corpus, table)
    names, rows, size, in_place = [], 0, 0, 0
    for number, file in enumerate(files):
        mine = _in_workspace(corpus.store, source, file)
        if mine and not columns and _fits(source, file.name, schema):
            names.append(mine)
            rows, size, in_place = (
                rows + _reader(source, file.name).metadata.num_rows,
                size + file.size,
                in_place + 1,
            )
        else:
            for part in _tables(source, file.name, recipe.fetch.shard_rows):
                found = _row_table(part, table, schema, columns, recipe.fetch, shards, file.name)
                name = f"{corpus.name}/adopted/{table}/{fingerprint}/{len(names):06d}.parquet"
                size += corpus.store.write_parquet(
                    name, found, **(IMAGE_PARQUET if table == "images" else TEXT_PARQUET)
                )
                names.append(name)
                rows += found.num_rows
        advance(number + 1, len(files))
    versions = {v.record.step: v for v in made(corpus)}
    given = {name: versions[name] for name in MADE_OF[table] if name in versions}
    record = Record(
        step=table,
        fingerprint=fingerprint,
        code_version="adopted",
        config=told,
        inputs={name: version.record.fingerprint for name, version in given.items()},
        parents={name: str(version.snapshot_id) for name, version in given.items()},
        counts={"adopted": rows},
        rows=rows,
        n_bytes=size,
        shards=len(names),
        seconds=time.monotonic() - started,
    ).signed(recipe.digest, __version__)
    snapshot_id = commit(corpus, table, schema, names, record)
    return Adopted(snapshot_id, rows, in_place, len(names) - in_place)


def _files(path: str) -> tuple[Store, list[Entry]]:
    """The Parquet files that a path names, in the order of their names, and the store that they lie in."""
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
    """The name that a file has in the workspace, if it lies there."""
    uri, root = source.uri(file.name), workspace.uri("").rstrip("/") + "/"
    return workspace.name_of(uri) if uri.startswith(root) else None


def _fits(store: Store, name: str, schema: pa.Schema) -> bool:
    found = _reader(store, name).schema_arrow
    ids = any(b"PARQUET:field_id" in (field.metadata or {}) for field in found)  # Iceberg wants none
    return not ids and found.remove_metadata().equals(schema.remove_metadata())


def _schema(table: str, store: Store, files: Sequence[Entry], columns: Mapping[str, str]) -> pa.Schema:
    """The table's schema; that of scores has every column of floating-point numbers, or those named."""
    schema = SCHEMAS[table]
    for ours in columns:
        if table != "scores" and ours not in (*schema.names, "url", "caption"):  # the two give the key
            raise RecipeError(
                f"--column {ours}: {table} has no such column; it has {', '.join(schema.names)}"
            )
    for file in files:
        there = _reader(store, file.name).schema_arrow
        for ours, theirs in columns.items():
            if theirs not in there.names:
                has = ", ".join(there.names)
                raise RecipeError(
                    f"--column {ours}={theirs}: {file.name} has no column {theirs}; it has {has}"
                )
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
        raise RecipeError(
            f"{files[0].name} has no column of numbers that could be a score: --column NAME=COLUMN"
        )
    return pa.schema([*SCORES, *((name, pa.float64()) for name in scores)])


def _tables(store: Store, name: str, rows: int) -> Iterator[pa.Table]:
    for batch in _reader(store, name).iter_batches(batch_size=rows):
        yield pa.Table.from_batches([batch])


class _Shards:
    """The shard of each row: of pictures a number of their own, else that of the picture with the key."""

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


def _row_table(
    given: pa.Table,
    table: str,
    schema: pa.Schema,
    columns: Mapping[str, str],
    fetch: Fetch,
    shards: _Shards,
    file: str,
) -> pa.Table:
    """Rows as the table has them, with what the files lack."""
    named = {theirs: ours for ours, theirs in columns.items()}
    rows = given.rename_columns([named.get(name, name) for name in given.column_names])
    rows = rows.select(
        [name for name in rows.column_names if name in schema.names or name in ("url", "caption")]
    )
    if "key" not in rows.column_names:
        if not {"url", "caption"} & set(rows.column_names):
            raise RecipeError(
                f"{file} has neither key nor url and caption: name them with --column url=COLUMN"
            )
        told = [name for name in ("url", "caption") if name in rows.column_names]
        pairs = rows.select(told).to_pylist()
        keys = [pair_key(pair.get("url"), pair.get("caption")) for pair in pairs]
        rows = rows.append_column("key", pa.array(keys, pa.string()))
    if table == "images" and "status" not in rows.column_names:
        rows = _pictures(rows, fetch, file)
    elif table == "selection" and "kept" not in rows.column_names:
        rows = rows.append_column("kept", pa.repeat(pa.scalar(True), len(rows)))
    if table == "selection" and "reason" not in rows.column_names:
        rows = rows.append_column("reason", pc.if_else(rows["kept"], "kept", "adopted as dropped"))
    defaults = {"task": T2I, "source": "adopted", "weight": 1.0}
    found = []
    for field in schema:
        if field.name == "shard":
            found.append(shards.of(rows["key"].combine_chunks().cast(pa.string()), file))
        elif field.name in rows.column_names:
            try:
                found.append(rows[field.name].cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise RecipeError(
                    f"{file}: {field.name} is {rows[field.name].type}, and {table} takes {field.type}"
                ) from None
        else:
            value = defaults.get(field.name) if table in ("pairs", "images") else None
            found.append(pa.repeat(pa.scalar(value, field.type), len(rows)))
    return pa.Table.from_arrays(found, schema=schema)


def _pictures(rows: pa.Table, fetch: Fetch, file: str) -> pa.Table:
    """Pictures as a fetch stores them: limits, hashes and sizes are those of the recipe's ``fetch``."""
    from rasterloom.sources.failure import Failure
    from rasterloom.sources.images.decode import decode_image

    if "image" not in rows.column_names:
        raise RecipeError(
            f"{file} has no column image: name the one with the files' bytes, --column image=COLUMN"
        )
    found: list[dict[str, Any]] = []
    for row in rows.select(
        [n for n in rows.column_names if n in ("key", "url", "caption", "image")]
    ).to_pylist():
        data = row.pop("image")
        data = data.get("bytes") if isinstance(data, dict) else data  # as the Hugging Face form has it
        row |= {"attempts": 0, "status": "failed"}
        try:
            if not isinstance(data, bytes) or not data:
                raise Failure("missing_file", "the row has no picture")  # type: ignore[arg-type]
            picture = decode_image(data, fetch)
            row |= {
                **{
                    name: getattr(picture, name)
                    for name in ("format", "width", "height", "phash", "thumbnail")
                },
                **{f"original_{n}": getattr(picture, f"original_{n}") for n in ("format", "width", "height")},
                "original_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "image": picture.data,
                "status": "ok",
            }
        except Failure as failure:
            row |= {"error": str(failure.error), "detail": failure.detail}
        found.append(row)
    return pa.Table.from_pylist(found, schema=pa.schema([f for f in IMAGES if f.name != "shard"]))
