"""Stored images by place, read a row group at a time."""

import io
import threading
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rasterloom.report.gallery import THUMBNAIL, webp
from rasterloom.storage.store import Store

ROWS_A_FILE = 2**32  # a place is the number of a file times this, plus a row of it
GROUPS = 8  # row groups that are kept, as a page shows neighbours in them
FILES = 256  # whose metadata is kept
TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


class StoredImages:
    """Reader of images and of the further images of their samples."""

    def __init__(self, paths: list[str], store: Store) -> None:
        self._paths = paths
        self._store = store
        self._lock = threading.Lock()  # a page asks for all its images at once, often of one row group
        self._metadata = lru_cache(FILES)(self._read_metadata)
        self._group = lru_cache(GROUPS)(self._read_group)

    def stored(self, place: int, number: int = 0) -> tuple[bytes, str] | None:
        """Return an image's bytes and media type. None if there is none, or of another format.

        Args:
            number: 0 for the image in the columns of a pair, n for the n-th of ``more``
        """
        row = self._row(place, ("format", "image") if number == 0 else ("more",))
        if number:
            more = row["more"] or []
            row = more[number - 1] if number <= len(more) else {}
        media = TYPES.get(row.get("format") or "")
        return (row["image"], media) if media and row.get("image") else None

    def more(self, place: int) -> int:
        """Return how many further images an image's sample has."""
        return len(self._row(place, ("more",))["more"] or ())

    def thumbnail(self, place: int) -> bytes | None:
        """Return an image scaled down, as WebP. None if there is none, or it cannot be read."""
        row = self._row(place, ("image",))
        try:
            with Image.open(io.BytesIO(row["image"] or b"")) as image:
                return webp(image, THUMBNAIL)[0]
        except (OSError, ValueError, Image.DecompressionBombError):
            return None

    def _row(self, place: int, columns: tuple[str, ...]) -> dict[str, Any]:
        number, row = divmod(place, ROWS_A_FILE)
        with self._lock:
            ends = self._metadata(number)[1]
            group = bisect_right(ends, row)
            start = ends[group - 1] if group else 0
            found: dict[str, Any] = self._group(number, group, columns).slice(row - start, 1).to_pylist()[0]
        return found

    def _read_metadata(self, number: int) -> tuple[pq.FileMetaData, list[int]]:
        """Metadata of a file, and the end of each row group."""
        with self._store.filesystem.open_input_file(self._paths[number]) as source:
            metadata = pq.read_metadata(source)
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return metadata, list(accumulate(rows))

    def _read_group(self, number: int, group: int, columns: tuple[str, ...]) -> pa.Table:
        with self._store.filesystem.open_input_file(self._paths[number]) as source:
            file = pq.ParquetFile(source, metadata=self._metadata(number)[0])
            there = [name for name in columns if name in file.schema_arrow.names]
            table = file.read_row_group(group, columns=there)
        for name in columns:
            if name not in there:  # tables of earlier versions have no further images
                table = table.append_column(name, pa.nulls(len(table)))
        return table
