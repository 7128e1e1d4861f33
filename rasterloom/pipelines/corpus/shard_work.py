"""Planning of shards and work on one, up to the selection.

A ``plan_*`` function cuts a step's inputs up; the function beside it takes one of those shards.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pydantic import field_serializer

from rasterloom.filtering.scorers.registry import make_scorers, score_shard
from rasterloom.pipelines.corpus.host_limits import book_of_run, shares_limits
from rasterloom.pipelines.step import Inputs, RetrySpec, Shard, ShardResult, ShardSpec
from rasterloom.recipe.base import Section
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.filtering import Keep, Score
from rasterloom.recipe.run import HostLimits
from rasterloom.recipe.sources import Source
from rasterloom.schema import PAIRS, SCORES, ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.img2dataset import fetch_shard_by_img2dataset
from rasterloom.sources.fetch.shard import failed_rows, fetch_shard
from rasterloom.sources.host_order import MANY_ROWS
from rasterloom.sources.pairs import stream_pairs
from rasterloom.sources.readers.registry import source_name
from rasterloom.storage.parquet_io import count_of, first_of, read_file, read_files, read_rows, row_count
from rasterloom.storage.store import Store

FILES_AT_ONCE = 16  # of images, judged together
KEYS_AT_ONCE = 1 << 22  # of an earlier selection


class Sources(Section):
    """Sources by name. Their content is the step's identity, and their paths are not."""

    sources: tuple[Source, ...]

    @field_serializer("sources")
    def _by_name(self, sources: tuple[Source, ...]) -> list[dict[str, Any]]:

        return [
            {
                **source.model_dump(mode="json", exclude={"path", "root"}, exclude_defaults=True),
                "name": source_name(source),
            }
            for source in sources
        ]


class Scores(Section):
    scorers: tuple[Score, ...]


@dataclass(frozen=True)
class Origin:
    """Sources, limits and a Python, for fetching.

    It is nobody's identity: what lies there is.
    """

    sources: tuple[Source, ...] = ()
    python: str | None = None
    host_limits: HostLimits = "auto"


@dataclass(frozen=True)
class PairsSpec(ShardSpec):
    """All sources."""


@dataclass(frozen=True)
class FetchSpec(RetrySpec):
    """Rows of a file of pairs."""

    shard: int
    file: str
    start: int
    rows: int
    of_many: bool | None = None  # in a list so long that its workers share the limits of hosts; of `now` only


@dataclass(frozen=True)
class ScoreSpec(ShardSpec):
    """A file of images."""

    images: str


@dataclass(frozen=True)
class SelectSpec(ShardSpec):
    """All files of images and scores."""

    images: list[str]
    scores: list[str]
    earlier: list[str] | None = None  # of the selection's last version; no part of the digest


def plan_pairs(store: Store, inputs: Inputs, config: Sources) -> list[Shard[PairsSpec]]:
    return [Shard("000000", PairsSpec())]  # one shard: a pair that comes twice is found across all sources


def read_pairs(store: Store, spec: PairsSpec, config: Sources, by_host: bool = False) -> ShardResult:
    counts: dict[str, int] = {}
    return stream_pairs(config.sources, counts, by_host=by_host, processes=assigned_cpus()), counts


def assigned_cpus() -> int:
    """Return the CPUs of this Ray task, or 1."""
    import ray  # heavy

    context = ray.get_runtime_context() if ray.is_initialized() else None
    if context is None or context.get_task_id() is None:  # no task of Ray's
        return 1
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))


def plan_images(store: Store, inputs: Inputs, config: Fetch) -> list[Shard[FetchSpec]]:
    shards: list[Shard[FetchSpec]] = []
    number, many = 0, sum(file.rows for file in inputs["pairs"]) > MANY_ROWS
    for file in inputs["pairs"]:
        first = first_of(store, file)
        for start in range(0, first.rows, config.shard_rows):
            spec = FetchSpec(shard=number, file=first.name, start=start, rows=config.shard_rows)
            here, rows = first.now(start, config.shard_rows)
            now = replace(spec, file=file.name, start=here, rows=rows) if first.gone else None
            now = replace(now or spec, of_many=True) if many else now
            if rows:
                size = min(rows, first.rows - start)
                shards.append(Shard(f"{number:06d}", spec, now=now, rows=size))
            number += 1
    return shards


def fetch_images(
    store: Store,
    spec: FetchSpec,
    config: Fetch,
    origin: Origin = Origin(),
) -> ShardResult:
    pairs = read_rows(store, spec.file, spec.start, spec.rows, PAIRS.names)
    images = _fetch(pairs, config, spec, origin)
    return images, count_of(images["error"].fill_null("ok"))


def fetch_again(
    store: Store,
    spec: FetchSpec,
    config: Fetch,
    origin: Origin = Origin(),
) -> ShardResult:
    """Fetch again a shard's rows that failed with one of ``errors``.

    All rows, where there is no earlier result.
    """
    if spec.images is None:
        return fetch_images(store, spec, config, origin)
    pairs = read_rows(store, spec.file, spec.start, spec.rows, PAIRS.names)
    before = read_file(store, spec.images)
    before = before.filter(pc.is_in(before["key"], pairs["key"].combine_chunks()))  # a takedown took the rest
    failed = pc.is_in(before["error"], pa.array(spec.errors))
    keys = before["key"].filter(failed).combine_chunks()
    pairs = pairs.filter(pc.is_in(pairs["key"], keys))
    fetched = _fetch(pairs, config, spec, origin)
    attempts = pc.add(fetched["attempts"], before["attempts"].filter(failed))
    fetched = fetched.set_column(fetched.column_names.index("attempts"), "attempts", attempts)
    images = pa.concat_tables([before.filter(pc.invert(failed)).cast(fetched.schema), fetched])
    images = images.take(pc.index_in(before["key"].combine_chunks(), images["key"].combine_chunks()))
    return images, count_of(images["error"].fill_null("ok"))


def rows_of(store: Store, spec: FetchSpec) -> int:
    """Return how many rows there are to fetch."""
    return min(spec.rows, row_count(store, spec.file) - spec.start)


def part_of(spec: FetchSpec, start: int, rows: int) -> FetchSpec:
    """Return the spec of some of the rows."""
    return replace(spec, start=spec.start + start, rows=rows)


def killed_row(store: Store, spec: FetchSpec, config: Fetch, *, detail: str) -> ShardResult:
    """Make a row that kills its worker a failure."""
    pairs = read_rows(store, spec.file, spec.start, spec.rows, PAIRS.names)
    images = failed_rows(pairs, FetchFailure(ErrorClass.KILLED_WORKER, detail), shard=spec.shard)
    return images, count_of(images["error"])


def _fetch(pairs: pa.Table, config: Fetch, spec: FetchSpec, origin: Origin) -> pa.Table:
    shard = spec.shard
    if config.engine != "img2dataset":
        exchange = book_of_run(config) if shares_limits(origin.host_limits, bool(spec.of_many)) else None
        return fetch_shard(pairs, config, shard=shard, sources=origin.sources, exchange=exchange)

    # img2dataset fetches pairs with a URL, and nothing else.
    has_url = pc.and_(pc.is_null(pairs["path"]), pc.is_null(pairs["turns"]))
    images = pa.concat_tables(
        [
            fetch_shard_by_img2dataset(pairs.filter(has_url), config, shard=shard, python=origin.python),
            fetch_shard(pairs.filter(pc.invert(has_url)), config, shard=shard, sources=origin.sources),
        ]
    )
    return images.take(pc.index_in(pairs["key"].combine_chunks(), images["key"].combine_chunks()))


def plan_scores(store: Store, inputs: Inputs, config: Scores) -> list[Shard[ScoreSpec]]:
    """One shard a file of images."""
    return [
        Shard(f"{number:06d}", ScoreSpec(file.name), rows=file.rows)
        for number, file in enumerate(inputs["images"])
    ]


def score_images(store: Store, spec: ScoreSpec, config: Scores) -> ShardResult:

    images = read_files(store, [spec.images], without=("more",))
    scores = score_shard(images, _scorers(config.model_dump_json()))
    return scores, {"rows": scores.num_rows}


@lru_cache(maxsize=1)  # Ray uses a worker process again: weights are loaded once in each
def _scorers(config: str) -> Any:

    return make_scorers(Scores.model_validate_json(config).scorers)


def plan_selection(store: Store, inputs: Inputs, config: Keep) -> list[Shard[SelectSpec]]:
    # One shard: duplicates are found across the whole corpus. What is remembered is no part of its identity.
    names = {name: [f.name for f in files] for name, files in inputs.items()}
    spec = SelectSpec(names["images"], names["scores"])
    earlier = names.get("earlier")
    return [Shard("000000", spec, now=None if earlier is None else replace(spec, earlier=earlier))]


def select_images(store: Store, spec: SelectSpec, config: Keep) -> ShardResult:
    """Select rows, some files at a time to bound the memory."""
    counts: Counter[str] = Counter()
    return _selected(store, spec, config, counts), counts


def _selected(store: Store, spec: SelectSpec, config: Keep, counts: Counter[str]) -> Iterator[pa.Table]:
    from rasterloom.filtering.selection import select_batches  # heavy

    earlier = _kept_keys(store, spec.earlier) if spec.earlier else None
    columns = score_fields(store, spec.scores)
    batches = images_with_scores(store, spec.images, spec.scores, config, columns)
    for table in select_batches(batches, columns, config, earlier):
        counts.update(count_of(table["reason"]))
        yield table


def _kept_keys(store: Store, names: list[str]) -> Iterator[pa.Array]:
    """Yield the keys that a selection kept, some million at a time."""
    paths = [store.path(name) for name in names]
    data = pads.dataset(paths, filesystem=store.filesystem, format="parquet")
    keys: list[pa.Array] = []
    for batch in data.to_batches(columns=["key"], filter=pc.field("kept")):
        keys.append(batch["key"])
        if sum(map(len, keys)) >= KEYS_AT_ONCE:
            yield pa.concat_arrays(keys)
            keys = []
    if keys:
        yield pa.concat_arrays(keys)


def score_fields(store: Store, names: list[str]) -> pa.Schema:
    """The columns that scorers gave, read off the files."""
    with store.filesystem.open_input_file(store.path(names[0])) as source:
        columns = pq.read_schema(source)
    return pa.schema([field for field in columns if field.name not in SCORES.names])


def images_with_scores(
    store: Store, images: list[str], scores: list[str], config: Keep, columns: pa.Schema
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield rows of images and scores, with the columns for a selection.

    The files of the two tables go together, one by one, unless something went wrong. Should the keys say
    that it did, or the numbers of files, the scores are looked up in their whole table.
    """
    from rasterloom.filtering.selection import columns_needed  # heavy

    of_images, of_scores = columns_needed(config, columns)
    whole = None
    for start in range(0, len(images), FILES_AT_ONCE):
        part = read_files(store, images[start : start + FILES_AT_ONCE], columns=of_images)
        beside = scores[start : start + FILES_AT_ONCE]
        given = read_files(store, beside, columns=of_scores) if len(images) == len(scores) else None
        if given is None or not given["key"].equals(part["key"]):
            whole = read_files(store, scores, columns=of_scores) if whole is None else whole
            given = whole
        yield part, given
