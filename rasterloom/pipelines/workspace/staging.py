"""Staged shards: written and published by workers, committed by the driver.

A worker writes a data file under a name of its own and then publishes the shard by one conditional
write of a small JSON file that names it. Whoever comes second has written garbage, and knows it.
"""

import json
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace.tombstones import NONE, Tombstones
from rasterloom.storage import layout
from rasterloom.storage.footers import footer_of
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.utils.retry import RetryPolicy

# Of a shard whose reading or writing breaks off.
ON_S3 = RetryPolicy(lambda error: isinstance(error, OSError), tries=4)


@dataclass(frozen=True)
class Published:
    """A finished shard: its data files and what came of its rows."""

    shard: str
    files: dict[str, int]  # rows by name in the store
    rows: int
    bytes: int
    counts: dict[str, int]
    seconds: float
    spec: str = ""  # digest of what it was made from
    takedowns: int = 0  # how many there were when it was last looked at
    taken_down: int = 0  # the last of them that took rows out of it
    footers: dict[str, str] = field(default_factory=dict)  # statistics of files, for the commit

    @property
    def id(self) -> str:
        return f"{self.shard}-{self.spec}"

    @property
    def data_files(self) -> list[DataFile]:
        return [DataFile(name, rows) for name, rows in self.files.items()]


def run_shard(
    store: Store, place: str, step: ShardStep, shard: Shard, taken_down: Tombstones = NONE
) -> Published:
    """Make one shard and publish it, or return the one published.

    Rows that were taken down are left out.
    Where a connection to S3 breaks in the middle of a data file, the work is done again.
    """
    work = partial(_run_shard, store, place, step, shard, taken_down)
    return ON_S3.call(f"{step.name}, shard {shard.name}", work) if store.is_s3 else work()


def _run_shard(store: Store, place: str, step: ShardStep, shard: Shard, taken_down: Tombstones) -> Published:
    start = time.monotonic()
    found, counts = step.work(store, shard.task, step.config)
    changes: list[dict[str, int]] = []
    attempt = f"{shard.name}-{uuid.uuid4().hex[:12]}"
    files: dict[str, int] = {}
    footers: dict[str, str] = {}
    size = 0
    for table in [found] if isinstance(found, pa.Table) else found:
        if table.schema != step.schema:
            table = table.select(step.schema.names).cast(step.schema)
        table, change = taken_down.without(table, step.name)
        changes.append(change)
        file = layout.staged_data(place, attempt, len(files))
        metadata: list[pq.FileMetaData] = []
        written = store.write_parquet(file, table, metadata_collector=metadata, **step.parquet)
        if step.table and (footer := footer_of(metadata[0], written).to_text()):
            footers[file] = footer
        size += written
        files[file] = table.num_rows
    seconds = time.monotonic() - start
    counts = add_up([counts, *changes])
    rows = sum(files.values())
    known = taken_down.number
    last = known if any(changes) else 0
    mine = Published(shard.name, files, rows, size, counts, seconds, shard.digest, known, last, footers)
    if _publish(store, place, mine):
        return mine
    for file in files:
        store.delete(file)
    return read_published(store, layout.staged_shard(place, shard.id))


def take_over(store: Store, place: str, shard: Shard, earlier: Published) -> Published:
    """Publish an earlier version's result as a shard's, sharing its files."""
    mine = replace(earlier, shard=shard.name, spec=shard.digest)
    return (
        mine if _publish(store, place, mine) else read_published(store, layout.staged_shard(place, shard.id))
    )


def _publish(store: Store, place: str, result: Published) -> bool:
    return store.put_if_absent(layout.staged_shard(place, result.id), _json(result))


def _json(result: Published) -> bytes:
    return json.dumps(asdict(result)).encode()


def publish_anew(store: Store, place: str, result: Published) -> None:
    """Replace the files of a published shard."""
    store.put(layout.staged_shard(place, result.id), _json(result))


def is_published(name: str) -> bool:
    """True for the JSON file of a shard."""
    return name.endswith(".json") and name.rsplit("/", 2)[-2] == layout.SHARDS


def read_published(store: Store, name: str) -> Published:
    values: dict[str, Any] = json.loads(store.read(name))
    return Published(**values)


def published(store: Store, place: str) -> dict[str, Published]:
    """All published shards by id, those outdated by a takedown included."""
    names = [n for n in store.list(layout.staged_shards(place)) if n.endswith(".json")]
    found = (read_published(store, name) for name in names)
    return {p.id: p for p in found}


def finish(store: Store, place: str, results: list[Published]) -> None:
    """Write the list of a tableless step's shards."""
    store.put_if_absent(layout.staged_result(place), json.dumps([r.id for r in results]).encode())


def result_of(store: Store, place: str) -> list[Published]:
    """The shards that are a finished step's result, in their order."""
    ids: list[str] = json.loads(store.read(layout.staged_result(place)))
    return [read_published(store, layout.staged_shard(place, id_)) for id_ in ids]


def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add counts by name."""
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))
