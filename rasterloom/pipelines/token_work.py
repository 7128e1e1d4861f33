"""What the steps of `tokens` do to one shard: pictures and captions to sequences, sequences to even files."""

from collections import Counter
from functools import lru_cache
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PlainSerializer

from rasterloom.pipelines.reading import count_of, read_file, read_files
from rasterloom.pipelines.step import Inputs, Shard, ShardResult
from rasterloom.pipelines.work import score_fields
from rasterloom.recipe import Section, Tokenize
from rasterloom.schema import TOKENS, Profile
from rasterloom.storage import Store


def _without_places(config: Tokenize) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"weights", "text"})


# What weights and tokenizer hold is part of a step's identity (digests), not where they lie.
AnyPlace = Annotated[Tokenize, PlainSerializer(_without_places)]


class TokenizeAt(Section):
    """Tokenising for one target: every target is a step of its own."""

    target: int
    tokenize: AnyPlace


def tokenize_images(store: Store, spec: dict[str, Any], config: TokenizeAt) -> ShardResult:
    from rasterloom.tokenize.shard import tokenize_shard

    images = read_file(store, spec["images"])
    shards = pc.unique(images["shard"])
    kept = read_files(store, spec["selection"], pc.field("shard").isin(shards) & pc.field("kept"))
    known = score_fields(store, spec["scores"]).names  # the embeddings among them need not be read
    columns = ["key", "shard", *(name for name in TOKENS.names if name in known)]
    scores = read_files(store, spec["scores"], pc.field("shard").isin(shards), columns)
    images = images.filter(pc.is_in(images["key"], kept["key"].combine_chunks()))
    codec = _codec(config.tokenize.codec, config.tokenize.weights, config.tokenize.precision)
    text, profile = load_text(store, spec["text"][0], config.tokenize)
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
    return with_failures(rows, failures, config.target), counts | count_of(failures["reason"], "failed: ")


def with_failures(rows: pa.Table, failures: pa.Table, target: int) -> pa.Table:
    """Token rows with a column ``error``, and a row of nulls and an error for each pair that failed."""
    rows = rows.append_column("error", pa.nulls(rows.num_rows, pa.string()))
    failed = pa.table({"key": failures["key"], "error": failures["reason"]})
    failed = failed.append_column("target", pa.repeat(pa.scalar(target, pa.int32()), failed.num_rows))
    return pa.concat_tables([rows, failed], promote_options="default")


@lru_cache(maxsize=1)
def _codec(name: str, weights: str | None, precision: str) -> Any:
    """The codec, on a GPU in the actors that have one (`ShardStep.uses_gpu`)."""
    from rasterloom.tokenize.codecs import load_codec

    return load_codec(name, weights, precision=precision)


@lru_cache(maxsize=2)
def load_text(store: Store, name: str, config: Tokenize) -> tuple[Any, Profile]:
    """The text encoder of a tokenizer.json in the store, and the ids that sequences are written in."""
    from rasterloom.tokenize.text import text_of

    return text_of(config, store.read(name).decode())


def plan_pack(store: Store, inputs: Inputs, config: TokenizeAt) -> list[Shard]:
    """Each bucket's rows in as few files as may be, even to one row."""
    from rasterloom.tokenize.pack import plan_files

    (given,) = inputs.values()
    files = [f.name for f in given]
    buckets = Counter(read_files(store, files, pc.field("error").is_null(), ["bucket"])["bucket"].to_pylist())
    shards = []
    for bucket, rows in sorted(buckets.items()):
        start = 0
        for number, size in enumerate(plan_files(rows, config.tokenize.rows_per_file)):
            spec = {"files": files, "bucket": bucket, "start": start, "rows": size}
            shards.append(Shard(f"{bucket}-{number:04d}", spec))
            start += size
    return shards


def pack_tokens(store: Store, spec: dict[str, Any], config: TokenizeAt) -> ShardResult:
    """The rows of one file of a bucket, in an order that depends on seed and keys alone."""
    from rasterloom.tokenize.pack import shuffled

    bucket = pc.field("bucket") == spec["bucket"]
    keys = read_files(store, spec["files"], bucket, ["key"])["key"].to_pylist()
    order = shuffled(keys, config.tokenize.seed)[spec["start"] : spec["start"] + spec["rows"]]
    mine = [keys[row] for row in order]
    rows = read_files(store, spec["files"], bucket & pc.field("key").isin(mine)).drop_columns(["error"])
    rows = rows.take(pc.index_in(pa.array(mine), rows["key"].combine_chunks()))
    return rows, {"sequences": rows.num_rows, "tokens": pc.sum(rows["n_tokens"]).as_py()}
