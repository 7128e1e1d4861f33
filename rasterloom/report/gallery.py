"""Galleries: a fixed random sample of images for each outcome, as WebP data URIs.

Keys are digests, so the order of a digest of theirs is a random order that is the same on every run.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from rasterloom.report.queries import FAILED, Tables
from rasterloom.schema import T2I
from rasterloom.utils import formatting

SEED = "rasterloom.report"
KEPT, DROPPED, DUPLICATES = 24, 12, 6  # images shown of those kept, and of each reason for which not
REASONS = 30  # the most frequent reasons that get a gallery
DROPPED_IN_ALL = 96  # images shown of all reasons together, so that the page stays light
POOL = 16  # shards that samples come from where they can, which bounds what is read
THUMBNAIL = 200  # pixels, the longer side


@dataclass(frozen=True)
class GalleryImage:
    """Image on a page. ``src`` is a data URI, empty if it is missing or cannot be read."""

    src: str
    caption: str
    notes: tuple[str, ...] = ()
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Gallery:
    """Sample of the images of one outcome. ``pairs`` has duplicates beside the images kept instead."""

    reason: str
    rows: int
    kept: bool
    images: tuple[GalleryImage, ...] = ()
    pairs: tuple[tuple[GalleryImage, GalleryImage], ...] = ()

    @property
    def shown(self) -> int:
        return len(self.images) + len(self.pairs)


def gallery_image(
    image: Image.Image, caption: str, notes: tuple[str, ...] = (), longest: int = THUMBNAIL, quality: int = 72
) -> GalleryImage:
    """Scale an image to a longer side of at most ``longest``."""
    data, size = webp(image, longest, quality)
    src = "data:image/webp;base64," + base64.b64encode(data).decode()
    return GalleryImage(src, caption, notes, *size)


def webp(image: Image.Image, longest: int, quality: int = 72) -> tuple[bytes, tuple[int, int]]:
    """Scale an image down and encode it. Return its bytes and size."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue(), small.size


def read_rows(
    tables: Tables, table: str, keys: Iterable[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of some keys, reading only their row groups."""
    wanted = sorted(set(keys))
    for path in tables.files_with(table, wanted) if wanted else ():
        with tables.corpus.store.filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            here = file.read(columns=["key"])["key"]
            places = pc.indices_nonzero(pc.is_in(here, pa.array(wanted))).to_pylist()
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                rows = [place - start for place in places if start <= place < end]
                if rows:
                    yield from file.read_row_group(group, columns=["key", *columns]).take(rows).to_pylist()
                start = end


def galleries(tables: Tables) -> list[Gallery]:
    """Galleries of the selected images, then of each reason for dropping one."""
    if not tables.has("images", "selection"):
        return []
    groups = tables.sql(
        f"""
        WITH pool AS (SELECT shard FROM (SELECT DISTINCT shard FROM selection)
                      ORDER BY md5(shard::VARCHAR || '{SEED}') LIMIT {POOL}),
        placed AS (SELECT kept, reason, key, duplicate_of,
                     (shard NOT IN (SELECT shard FROM pool))::INT::VARCHAR || md5(key || '{SEED}') AS place
                   FROM selection WHERE kept OR reason IS NULL OR NOT starts_with(reason, '{FAILED}'))
        SELECT kept, if(kept, 'kept', coalesce(reason, 'unknown')) AS reason, count(*) AS rows,
               min_by({{'key': key, 'of': duplicate_of}}, place, {KEPT}) AS sample
        FROM placed GROUP BY ALL ORDER BY kept DESC, rows DESC, reason LIMIT {REASONS + 1}
        """
    )
    reasons = sum(not group["kept"] for group in groups)
    each = max(3, min(DROPPED, DROPPED_IN_ALL // max(reasons, 1)))
    for group in groups:
        group["sample"] = group["sample"][: KEPT if group["kept"] else each]
    keys = {key for g in groups for chosen in g["sample"] for key in chosen.values() if key}
    images = images_of(tables, keys)
    return [_gallery(group, images) for group in groups]


def images_of(tables: Tables, keys: set[str]) -> dict[str, GalleryImage]:
    """Stored images of some keys, with captions, sizes and scores."""
    scores = _scores(tables, keys)
    columns = ["caption", "original_width", "original_height", "image", *_optional_columns(tables)]
    return {
        row["key"]: _of_row(row, scores.get(row["key"], {}))
        for row in read_rows(tables, "images", keys, columns)
    }


def _optional_columns(tables: Tables) -> list[str]:
    """Columns on a row's task; tables of earlier versions have none."""
    return [name for name in ("task", "main") if name in tables.data["images"].schema.names]


def _scores(tables: Tables, keys: set[str]) -> dict[str, dict[str, Any]]:
    if not tables.has("scores"):
        return {}
    names = [field.name for field in tables.data["scores"].schema if str(field.type) == "double"]
    return {row.pop("key"): row for row in read_rows(tables, "scores", keys, names)}


def _of_row(row: dict[str, Any], scores: dict[str, Any]) -> GalleryImage:
    caption = formatting.plain(row["caption"])
    values = [
        f"{name} {formatting.figure(value)}" for name, value in scores.items() if isinstance(value, float)
    ]
    task = row.get("task") or T2I
    asks = () if task == T2I else (task,)
    if row["image"] is None and task != T2I:
        return GalleryImage("", caption, (*asks, "text alone"))
    several = () if row.get("main") is None else ("one of several images",)
    notes = (*asks, *several, f"{row['original_width']}×{row['original_height']}", *values[:3])
    try:
        with Image.open(io.BytesIO(row["image"] or b"")) as image:
            return gallery_image(image, caption, notes)
    except (OSError, ValueError, Image.DecompressionBombError):
        return GalleryImage("", caption, notes)


def _gallery(group: dict[str, Any], images: dict[str, GalleryImage]) -> Gallery:
    shown = [chosen for chosen in group["sample"] if chosen["key"] in images]
    pairs = [(images[c["key"]], images[c["of"]]) for c in shown if c["of"] in images]
    alone = [images[c["key"]] for c in shown if c["of"] not in images]
    return Gallery(group["reason"], group["rows"], group["kept"], tuple(alone), tuple(pairs[:DUPLICATES]))
