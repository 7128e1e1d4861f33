"""Pairs out of what img2dataset wrote, in any of its forms.

Each of its shards NNNNN has its rows in NNNNN.parquet, failed ones with their status. The images lie in
that same file (output_format parquet), in NNNNN.tar (webdataset) or in a folder NNNNN (files). What it
failed to download comes as a row with a URL, to be fetched as if there had been no img2dataset.
"""

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.readers import folder, parquet, webdataset
from rasterloom.sources.readers.row import Row

STATS = "_stats.json"
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


def read(files: Files, source: Source) -> Iterator[Row]:
    """Yield the rows of all shards: the images of a shard, then the URLs that failed in it."""
    has_images = False
    for entry in files.entries():
        suffix = os.path.splitext(entry.name)[1]
        if suffix == ".tar":
            has_images = True
            yield from webdataset.read(files, entry.name, source)
        elif suffix == ".parquet":
            with files.open_arrow(entry.name) as opened, pq.ParquetFile(opened) as file:
                image = _image_column(file.schema_arrow)
            rows = parquet.read(files, entry.name, source.model_copy(update={"image": image}))
            for row in rows:
                if row.values.get("status", "success") not in SUCCESS:
                    yield Row(row.values)
                elif image:
                    yield row
    if not has_images:
        yield from folder.read(files, source)


def _image_column(schema: pa.Schema) -> str:
    for name in FORMATS:
        if name in schema.names and pa.types.is_binary(schema.field(name).type):
            return name
    return ""


def is_output(names: list[str]) -> bool:
    """Tell whether files' names are those of img2dataset's output."""
    stems = {name.removesuffix(STATS) for name in names if name.endswith(STATS)}
    return any(f"{stem}.parquet" in names for stem in stems)
