"""Pairs out of what img2dataset wrote, in any of its forms.

Each of its shards NNNNN has its rows in NNNNN.parquet, failed ones with their status. The images lie in
that same file (output_format parquet), in NNNNN.tar (webdataset) or in a folder NNNNN (files). What it
failed to download comes as a row with a URL, to be fetched as if there had been no img2dataset.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.readers import folder, parquet, webdataset
from rasterloom.sources.readers.row import Row, picked
from rasterloom.sources.readers.sidecars import unusable
from rasterloom.sources.readers.tally import FileTally, Survey, Tally
from rasterloom.storage.store import Entry

STATS = "_stats.json"
NOT_WRITTEN = "img2dataset writes no such file"
SUCCESS = (b"success", "success")
FORMATS = ("jpg", "png", "webp")  # its encode_format names the column


def check(files: Files, source: Source) -> None:
    """Check the columns of the first shard's rows."""
    for entry in files.entries():
        if entry.name.endswith(".parquet"):
            with files.open_arrow(entry.name) as opened, pq.ParquetFile(opened) as file:
                image = _image_column(file.schema_arrow)
            parquet.check(files, entry.name, source.model_copy(update={"image": image}))
            return
    raise SourceError(f"{files.shown('')}: no output of img2dataset, it has no .parquet files")


def read(files: Files, source: Source, tally: Tally | None = None) -> Iterator[Row]:
    """Yield the rows of all shards: the images of a shard, then the URLs that failed in it.

    A shard whose images are fewer than its table says adds a row that says so.
    """
    tally = Tally() if tally is None else tally
    said, there = Counter[str](), Counter[str]()  # images of a shard
    for entry in files.entries():
        shard, suffix = os.path.splitext(entry.name)
        counts = tally.file(entry.name)
        if suffix == ".tar":
            rows = webdataset.read(files, entry.name, source, counts)
        elif suffix == ".parquet":
            rows = _table(files, entry.name, source, counts)
        else:
            del tally.files[entry.name]
            continue
        for row in picked(rows, source, counts):
            counts.rows += 1
            there[shard] += suffix == ".tar" and row.path is not None
            yield row
        said[shard] += counts.parts if suffix == ".parquet" else 0
    if not any(name.endswith(".tar") for name in tally.files):
        for row in folder.read(files, source, tally):
            there[os.path.dirname(row.path or "")] += 1
            yield row
    for shard, count in said.items():
        if there[shard] < count:
            words = (
                f"{count - there[shard]:,} of the {count:,} images that it says were downloaded are not there"
            )
            counts = tally.file(f"{shard}.parquet")
            counts.records, counts.rows = counts.records + 1, counts.rows + 1
            yield unusable(f"{files.shown(shard)}.parquet: {words}", {"table": f"{shard}.parquet"})


def survey(files: Files) -> Survey:
    """Return which files are read: tables, statistics, and tars or images of shards.

    Images in folders are read only where no shard is a tar, as `read` does.
    """
    found = Survey("img2dataset")
    others: list[Entry] = []
    for entry in files.entries():
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in (".tar", ".parquet") or entry.name.endswith(STATS):
            found.read[suffix] += 1
        else:
            others.append(entry)
    if found.read[".tar"]:
        for entry in others:
            found.skip(NOT_WRITTEN, os.path.splitext(entry.name)[1].lower(), entry.name)
    else:
        folder.survey_into(found, others)
    return found


def _table(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield a shard's failed rows, and those whose images its table holds."""
    with files.open_arrow(name) as opened, pq.ParquetFile(opened) as file:
        image = _image_column(file.schema_arrow)
    for row in parquet.read(files, name, source.model_copy(update={"image": image}), counts):
        if row.values.get("status", "success") not in SUCCESS:
            yield Row(row.values)
        elif image:
            yield row
        else:
            counts.parts += 1  # its image is in the shard's tar or folder


def _image_column(schema: pa.Schema) -> str:
    for name in FORMATS:
        if name in schema.names and pa.types.is_binary(schema.field(name).type):
            return name
    return ""


def is_output(names: list[str]) -> bool:
    """Tell whether files' names are those of img2dataset's output."""
    stems = {name.removesuffix(STATS) for name in names if name.endswith(STATS)}
    return any(f"{stem}.parquet" in names for stem in stems)
