"""Captioning of one shard, and its plan."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PlainSerializer

from rasterloom.captions.caption_shard import (
    MICRO_USD_PAID,
    TOKENS_PAID,
    UNFINISHED,
    Known,
    caption_shard,
    known_rows,
)
from rasterloom.pipelines.corpus.shard_work import plan_images
from rasterloom.pipelines.step import Inputs, Shard, ShardResult, ShardSpec
from rasterloom.pipelines.workspace import staging
from rasterloom.recipe.base import Section
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import T2I
from rasterloom.storage.parquet_io import DataFile, read_file, read_files, read_rows
from rasterloom.storage.store import Store

COLUMNS = [
    "key",
    "shard",
    "url",
    "caption",
    "status",
    "sha256",
    "format",
    "width",
    "height",
    "image",
    "task",
    "turns",
]
OF_PAIRS = ["key", "source", "meta"]


class CaptionBy(Section):
    """Config of a captioner's step."""

    captioner: Annotated[Captioner, PlainSerializer(lambda one: one.model_dump(mode="json"))]


@dataclass(frozen=True)
class CaptionSpec(ShardSpec):
    """Rows of a file of images, and what belongs to them."""

    images: str
    start: int
    rows: int
    selection: list[str]
    pairs: list[tuple[str, int]]  # files and their rows
    begun: str | None = None  # of this shard, with rows that nobody was asked for
    earlier: list[str] | None = None  # this and the next: no part of the digest
    again: list[str] | None = None  # classes of failures that are asked again
    spent: tuple[int, float] | None = None  # tokens and dollars, by finished shards


@dataclass(frozen=True)
class CaptionPlan:
    """Arguments of a plan beside its inputs, in no fingerprint."""

    shard_rows: int
    place: str = ""  # of the step's staged shards
    again: tuple[str, ...] = ()


def plan_captions(
    store: Store, inputs: Inputs, config: CaptionBy, *, with_: CaptionPlan
) -> list[Shard[CaptionSpec]]:
    """Some rows of a file of images a shard.

    One with rows that nobody was asked for is followed by another.
    """
    before = staging.published(store, with_.place) if with_.place else {}
    tokens = sum(one.counts.get(TOKENS_PAID, 0) for one in before.values())
    usd = sum(one.counts.get(MICRO_USD_PAID, 0) for one in before.values()) / 1e6
    selection = [file.name for file in inputs["selection"]]
    pairs = [(file.name, file.rows) for file in inputs["pairs"]]
    earlier = [file.name for file in inputs.get("earlier", ())]
    shards = []
    for number, file in enumerate(inputs["images"]):
        for part, start in enumerate(range(0, file.rows, with_.shard_rows)):
            rows = min(with_.shard_rows, file.rows - start)
            spec = CaptionSpec(file.name, start, rows, selection, pairs)
            shard = Shard(f"{number:06d}-{part:04d}", spec, rows=rows)
            while (done := before.get(shard.id)) and any(done.counts.get(why) for why in UNFINISHED):
                (begun,) = done.files
                spec = replace(spec, begun=begun)
                shard = Shard(shard.name, spec, rows=rows)
            now = replace(spec, earlier=earlier, again=list(with_.again), spent=(tokens, usd))
            shards.append(replace(shard, now=now))
    return shards


def caption_images(
    store: Store, spec: CaptionSpec, config: CaptionBy, *, fetch: Fetch, digest: str = ""
) -> ShardResult:
    """Caption the selected images of a shard."""
    images = read_rows(store, spec.images, spec.start, spec.rows, COLUMNS)
    shards = pc.unique(images["shard"])
    kept = read_files(store, spec.selection, pc.field("shard").isin(shards) & pc.field("kept"), ["key"])
    images = plain_pairs(images.filter(pc.is_in(images["key"], kept["key"].combine_chunks())))
    images = with_pairs(store, spec.pairs, images, fetch)
    tables = [
        read_files(store, spec.earlier, pc.field("key").isin(images["key"].combine_chunks()))
        if spec.earlier and len(images)
        else None,
        read_file(store, spec.begun) if spec.begun else None,
    ]
    known = Known(
        known_rows([t for t in tables if t is not None], spec.again or ()), *(spec.spent or (0, 0.0))
    )
    return caption_shard(images, config.captioner, digest=digest, known=known)


def plain_pairs(images: pa.Table) -> pa.Table:
    """Rows of one image and no conversation."""
    plain = pc.and_(pc.equal(pc.coalesce(images["task"], T2I), T2I), pc.is_null(images["turns"]))
    return images.filter(pc.and_(plain, pc.is_valid(images["image"])))


def with_pairs(store: Store, files: list[tuple[str, int]], images: pa.Table, fetch: Fetch) -> pa.Table:
    """Images with the columns of their pairs that prompts may need.

    Args:
        files: of pairs, with their rows.
    """
    ranges = _ranges(store, tuple(map(tuple, files)), fetch)
    found = [
        read_rows(store, ranges[shard].file, ranges[shard].start, ranges[shard].rows, OF_PAIRS)
        for shard in pc.unique(images["shard"]).to_pylist()
        if shard in ranges
    ]
    pairs = pa.concat_tables(found) if found else None
    if pairs is None or not pc.all(pc.is_in(images["key"], pairs["key"].combine_chunks())).as_py():
        names = [name for name, _ in files]  # of imported tables, whose shards are others' numbers
        pairs = read_files(store, names, pc.field("key").isin(images["key"].combine_chunks()), OF_PAIRS)
    at = pc.index_in(images["key"].combine_chunks(), pairs["key"].combine_chunks())
    for name in OF_PAIRS[1:]:
        images = images.append_column(name, pairs[name].combine_chunks().take(at))
    return images


@lru_cache(maxsize=4)
def _ranges(store: Store, pairs: tuple[Any, ...], fetch: Fetch) -> dict[int, Any]:
    """Rows of pairs by number of shard, as they were fetched."""
    files = [DataFile(name, rows) for name, rows in pairs]
    return {shard.task.shard: shard.task for shard in plan_images(store, {"pairs": files}, fetch)}
