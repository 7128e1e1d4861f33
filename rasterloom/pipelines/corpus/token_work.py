"""Work on one shard, from images to sequences to files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PlainSerializer

from rasterloom.pipelines.corpus.shard_work import score_fields
from rasterloom.pipelines.step import Inputs, Shard, ShardResult, ShardSpec
from rasterloom.recipe.base import Section, is_default
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import PROMPTS, TOKENS, Profile, StepKind
from rasterloom.storage.parquet_io import count_of, read_file, read_files
from rasterloom.storage.store import Store
from rasterloom.tokenize.caption_prompts import with_prompts
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.file_layout import file_starts, order_of
from rasterloom.tokenize.text_tokenizer import text_of
from rasterloom.tokenize.tokenize_shard import tokenize_shard

TOKENS_AT_ONCE = 1 << 26  # that packing holds in memory: 256 MiB of ids

# Token rows as they are staged: with the reason of those that failed, and where the others stand in the
# order that they are packed in.
CODES = pa.schema([*TOKENS, ("error", pa.string()), ("order", pa.uint64())])


def _without_places(config: Tokenize) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"weights", "text"})


# What weights and tokenizer hold is part of a step's identity (digests), not where they lie.
AnyPlace = Annotated[Tokenize, PlainSerializer(_without_places)]


class AtTarget(Section):
    """Base class of the configs of steps of one target."""

    target: int


class TokenizeAt(AtTarget):
    """Tokenising for one target: every target is a step of its own."""

    tokenize: AnyPlace
    uncaptioned: bool = Field(False, exclude_if=is_default(False))
    """Images without captions are tokenized, as they get some later."""


@dataclass(frozen=True)
class TokenizeSpec(ShardSpec):
    """A file of images, and all files of the other inputs. These are pruned by shard."""

    images: str
    scores: list[str]
    selection: list[str]
    text: list[str]


@dataclass(frozen=True)
class PackSpec(ShardSpec):
    """Some files of a bucket, cut by order. None at the end is no end."""

    files: list[str]
    bucket: str
    edges: list[int | None]
    prompts: list[str] | None = None  # files of further captions' prompts, beside ``files``


def plan_tokenize(store: Store, inputs: Inputs, config: TokenizeAt) -> list[Shard[TokenizeSpec]]:
    """One shard a file of images."""
    names = {name: [f.name for f in files] for name, files in inputs.items()}
    others = names["scores"], names["selection"], names["text"]
    return [
        Shard(f"{number:06d}", TokenizeSpec(file.name, *others), rows=file.rows)
        for number, file in enumerate(inputs["images"])
    ]


def tokenize_images(store: Store, spec: TokenizeSpec, config: TokenizeAt) -> ShardResult:

    images = read_file(store, spec.images)
    shards = pc.unique(images["shard"])
    kept = read_files(store, spec.selection, pc.field("shard").isin(shards) & pc.field("kept"))
    known = score_fields(store, spec.scores).names  # the embeddings among them need not be read
    columns = ["key", "shard", *(name for name in TOKENS.names if name in known)]
    scores = read_files(store, spec.scores, pc.field("shard").isin(shards), columns)
    images = images.filter(pc.is_in(images["key"], kept["key"].combine_chunks()))
    if config.uncaptioned:
        images = _with_some_caption(images)
    codec = _codec(config.tokenize.codec, config.tokenize.weights, config.tokenize.precision)
    text, profile = load_text(store, spec.text[0], config.tokenize)
    rows, failures = tokenize_shard(
        images,
        scores,
        target=config.target,
        codec=codec,
        text=text,
        config=config.tokenize,
        profile=profile,
    )
    counts = count_of(rows["bucket"])
    counts |= count_of(failures["reason"], "failed: ")
    return staged(rows, failures, config.target, config.tokenize.seed), counts


def _with_some_caption(images: pa.Table) -> pa.Table:
    """Images whose captions that are none are a space: `caption_prompts.with_prompts` gives them another."""
    captions = pc.coalesce(images["caption"], "")
    some = pc.if_else(pc.equal(captions, ""), " ", captions)
    return images.set_column(images.column_names.index("caption"), "caption", some)


def staged(rows: pa.Table, failures: pa.Table, target: int, seed: int) -> pa.Table:
    """Token rows as ``CODES``, then an error row for each failure."""

    order = order_of(rows["key"].to_pylist(), seed)
    rows = rows.append_column("error", pa.nulls(rows.num_rows, pa.string()))
    rows = rows.append_column("order", pa.array(order, pa.uint64()))
    rows = rows.take(
        pc.sort_indices(
            rows, sort_keys=[("bucket", "ascending"), ("order", "ascending"), ("key", "ascending")]
        )
    )
    failed = pa.table({"key": failures["key"], "error": failures["reason"]})
    failed = failed.append_column("target", pa.repeat(pa.scalar(target, pa.int32()), failed.num_rows))
    return pa.concat_tables([rows, failed], promote_options="default")


@lru_cache(maxsize=1)
def _codec(name: str, weights: str | None, precision: str) -> Codec:
    """The codec, on a GPU in the actors that have one (`ShardStep.uses_gpu`)."""

    return load_codec(name, weights, precision=precision)


@lru_cache(maxsize=2)
def load_text(store: Store, name: str, config: Tokenize) -> tuple[Any, Profile]:
    """The text encoder of a stored tokenizer.json, and its ids."""

    return text_of(config, store.read(name).decode())


def plan_pack(store: Store, inputs: Inputs, config: AtTarget, *, rows_per_file: int) -> list[Shard[PackSpec]]:
    """Cut each bucket's rows into few, even files, several a shard.

    What is held of a row here is 8 bytes: where it stands in the order.
    """

    codes = next(name for name in inputs if StepKind.of(name) is not StepKind.PROMPTS)
    prompts = next((files for name, files in inputs.items() if name != codes), None)
    beside = {_number(file.name): file.name for file in prompts or ()}
    order: dict[str, list[Any]] = {}
    files: dict[str, list[str]] = {}
    tokens: Counter[str] = Counter()
    for file in inputs[codes]:
        rows = read_files(store, [file.name], pc.field("error").is_null(), ["bucket", "order", "n_tokens"])
        for bucket in pc.unique(rows["bucket"]).to_pylist():
            mine = rows.filter(pc.equal(rows["bucket"], bucket))
            order.setdefault(bucket, []).append(mine["order"].to_numpy())
            files.setdefault(bucket, []).append(file.name)
            tokens[bucket] += pc.sum(mine["n_tokens"]).as_py()
    shards = []
    for bucket in sorted(order):
        of_bucket = np.concatenate(order.pop(bucket))
        starts: list[int | None] = [*file_starts(of_bucket, rows_per_file)]
        together = max(1, int(TOKENS_AT_ONCE * len(starts) / tokens[bucket]))
        for number in range(0, len(starts), together):
            edges = [*starts, None][number : number + together + 1]  # None: no end
            numbers = [_number(name) for name in files[bucket]]
            of_files = None if prompts is None else [beside[n] for n in numbers if n in beside]
            spec = PackSpec(files[bucket], bucket, edges, of_files)
            rows = len(of_bucket) * (len(edges) - 1) // len(starts)
            shards.append(Shard(f"{bucket}-{number:04d}", spec, rows=max(1, rows)))
    return shards


def _number(file: str) -> str:
    """Name of the shard that a staged file is of: codes and prompts have the same."""
    return file.rpartition("/")[2].partition("-")[0]


def pack_tokens(store: Store, spec: PackSpec, config: AtTarget) -> ShardResult:
    """Rows of a bucket's files, in an order by seed and key."""
    counts: dict[str, int] = {}
    return _packed(store, spec, counts), counts


def _packed(store: Store, spec: PackSpec, counts: dict[str, int]) -> Iterator[pa.Table]:
    first, *ends = spec.edges
    where = (pc.field("bucket") == spec.bucket) & (pc.field("order") >= pa.scalar(first, pa.uint64()))
    if ends[-1] is not None:
        where &= pc.field("order") < pa.scalar(ends[-1], pa.uint64())
    rows = read_files(store, spec.files, where)
    by_order = rows.select(["order", "key"]).sort_by([("order", "ascending"), ("key", "ascending")])
    rows = rows.take(pc.index_in(by_order["key"].combine_chunks(), rows["key"].combine_chunks()))
    if spec.prompts is not None:
        rows = with_prompts(
            rows, read_files(store, spec.prompts, where) if spec.prompts else PROMPTS.empty_table()
        )
    order = rows["order"].to_numpy()
    rows = rows.drop_columns(["error", "order"])
    counts["sequences"], counts["tokens"] = rows.num_rows, pc.sum(rows["n_tokens"]).as_py() or 0
    cuts = [0, *(int(np.searchsorted(order, end)) for end in ends if end is not None)]
    cuts += [rows.num_rows] if ends[-1] is None else []
    for start, end in pairwise(cuts):
        yield rows.slice(start, end - start)
