"""Export of a version: Hugging Face dataset, webdataset shards, Parquet or files."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom.errors import RecipeError
from rasterloom.pipelines.import_export.export_formats import Form
from rasterloom.pipelines.import_export.export_readme import Card, write_card
from rasterloom.pipelines.maintenance.takedown import refuse_held
from rasterloom.schema import SCORES, in_order
from rasterloom.storage.parquet_io import read_file, read_files, read_rows
from rasterloom.utils.json_files import to_json
from rasterloom.utils.parallel import Advance, adding, silent
from rasterloom.versions.corpus import Corpus

FILE_BYTES = 500_000_000  # of images in a file, about
FROM_IMAGES = ("key", "url", "caption", "task", "turns", "main", "width", "height", "format", "sha256")
FROM_PAIRS = ("source", "weight", "licence")
META = "meta"  # the further columns of the source, as JSON


def export(
    corpus: Corpus,
    folder: Path,
    form: Form = Form.HF,
    *,
    file_bytes: int = FILE_BYTES,
    meta: bool = False,
    advance: Advance = silent,
) -> Card:
    """Export the selected images of a version, with a dataset card.

    Args:
        corpus: seen at the version that is wanted.
        folder: new or empty.
        form: ``hf`` has its images as ``datasets`` wants them (``load_dataset(folder)``), ``parquet`` as
            plain bytes; ``webdataset`` has tars of ``key.jpg``, ``key.txt`` and ``key.json``, and ``files``
            folders of these.
        file_bytes: of images in one file or folder, about.
        meta: with the further columns of the sources.
        advance: called with the rows read so far after each of the corpus's files.

    Raises:
        RecipeError: the folder holds something, or the version has no selection.
        VersionError: the version holds what was taken down since.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty: name a new folder")
    if not corpus.files("selection"):
        raise RecipeError(f"{corpus.name}@{corpus.ref} has no selection", needs="selection")
    refuse_held(corpus)
    (folder / "data").mkdir(parents=True)
    card = Card(corpus)
    write = {
        Form.HF: _write_hf,
        Form.PARQUET: _write_parquet,
        Form.WEBDATASET: _write_tar,
        Form.FILES: _write_folder,
    }[form]
    origin = (*FROM_PAIRS, META) if meta else FROM_PAIRS
    for number, rows in enumerate(_in_files(kept_rows(corpus, advance, origin), file_bytes)):
        write(rows, folder / "data" / f"train-{number:05d}")
        card.add(rows)
    write_card(card, folder, form.value)
    return card


def kept_rows(
    corpus: Corpus, advance: Advance = silent, of_pairs: Sequence[str] = FROM_PAIRS
) -> Iterator[pa.Table]:
    """Yield the selected rows of each images file, with scores and origin."""
    store, add = corpus.store, adding(advance)
    names = {table: [f.name for f in corpus.files(table)] for table in ("scores", "selection")}
    pairs = _Pairs(corpus, of_pairs)
    for file in corpus.files("images"):
        images = read_file(store, file.name)
        origin = pairs.of(images["key"])
        here = pc.field("shard").isin(pc.unique(images["shard"]))
        kept = read_files(store, names["selection"], here & pc.field("kept"), ["key"])["key"].combine_chunks()
        scores = read_files(store, names["scores"], here) if names["scores"] else SCORES.empty_table()
        columns = {
            name: images[name] for name in (*FROM_IMAGES, "image", "more") if name in images.column_names
        }
        columns |= {name: origin[name] for name in of_pairs}
        at = pc.index_in(images["key"], scores["key"].combine_chunks())
        columns |= {name: scores[name].take(at) for name in scores.column_names if name not in SCORES.names}
        rows = pa.table(columns)
        yield rows.filter(pc.is_in(rows["key"], kept))
        add(images.num_rows)


class _Pairs:
    """Rows of pairs for rows of images in the same order."""

    def __init__(self, corpus: Corpus, columns: Sequence[str]) -> None:
        self.store, self.columns = corpus.store, columns
        self.files = corpus.files("pairs")
        self.file = self.row = 0

    def of(self, keys: pa.ChunkedArray) -> pa.Table:
        """Return the pairs of some keys, in their order."""
        columns = ["key", *self.columns]
        if self.file < len(self.files):
            file = self.files[self.file]
            found = read_rows(self.store, file.name, self.row, len(keys), columns)
            self.row += len(keys)
            if self.row >= file.rows:
                self.file, self.row = self.file + 1, 0
            if found["key"].equals(keys):
                return found
        found = read_files(
            self.store, [f.name for f in self.files], pc.field("key").isin(keys.combine_chunks()), columns
        )
        return found.take(pc.index_in(keys, found["key"].combine_chunks()))


def _in_files(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Concatenate tables up to a size in bytes."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        if table.num_rows:
            waiting.append(table)
            held += table.nbytes
        if held >= size:
            yield pa.concat_tables(waiting, promote_options="default")
            waiting, held = [], 0
    if waiting:
        yield pa.concat_tables(waiting, promote_options="default")


def _write_parquet(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path.with_suffix(".parquet"), row_group_size=100, compression="zstd")


def _write_hf(rows: pa.Table, path: Path) -> None:
    """Write Parquet with images as structs that `datasets` decodes."""
    _write_parquet(_hf_images(rows), path)


def _hf_images(rows: pa.Table) -> pa.Table:
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def one(data: bytes | None, name: str) -> dict[str, Any] | None:
        return {"bytes": data, "path": name} if data else None

    of = rows.to_pylist()
    images = [one(row["image"], f"{row['key']}.{row['format']}") for row in of]
    rows = rows.set_column(rows.column_names.index("image"), "image", pa.array(images, image_type))
    if "more" in rows.column_names:
        more = [
            [one(m["image"], f"{row['key']}-{n}.{m['format']}") for n, m in enumerate(row["more"] or (), 1)]
            for row in of
        ]
        rows = rows.set_column(rows.column_names.index("more"), "more", pa.array(more, pa.list_(image_type)))
    return rows


def _write_tar(rows: pa.Table, path: Path) -> None:
    """Write a tar of ``key.jpg`` (of several images ``key.<n>.jpg``), ``key.txt`` and ``key.json``."""
    with tarfile.open(path.with_suffix(".tar"), "w") as tar:
        for name, data in _members(rows):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _write_folder(rows: pa.Table, path: Path) -> None:
    """Write the same as files of a folder."""
    path.mkdir()
    for name, data in _members(rows):
        (path / name).write_bytes(data)


def _members(rows: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file of a table's samples."""
    for row in rows.to_pylist():
        first = {"image": row.pop("image"), "format": row["format"]}
        more = row.pop("more", None) or []
        images = in_order(first if first["image"] else None, row.get("main") or 0, more)
        for number, image in enumerate(images):
            part = f".{number}" if len(images) > 1 else ""
            suffix = {"jpeg": "jpg"}.get(image["format"], image["format"])
            yield f"{row['key']}{part}.{suffix}", image["image"]
        if META in row:
            row[META] = json.loads(row[META] or "{}")
        yield f"{row['key']}.txt", (row["caption"] or "").encode()
        yield f"{row['key']}.json", to_json(row, ensure_ascii=False, default=str).encode()
