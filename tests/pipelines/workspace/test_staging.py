"""Shards between the worker that made them and the version that takes them in."""

import pyarrow as pa
import pytest
from pydantic import BaseModel

from rasterloom.pipelines.step import Shard, ShardSpec, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.storage.store import Store

SCHEMA = pa.schema([("n", pa.int32())])


class Config(BaseModel):
    sizes: tuple[int, ...]


def work(store, spec, config):
    counts = {}

    def tables():
        for size in config.sizes:
            yield pa.table({"n": list(range(size))}, schema=SCHEMA)
        counts["rows"] = sum(config.sizes)

    return tables(), counts


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 2)])
def test_a_shard_may_be_many_files(tmp_path, sizes):
    store = Store(str(tmp_path))
    step = ShardStep("pairs", Config(sizes=sizes), "1", plan=lambda *_: [], work=work, schema=SCHEMA)
    done = staging.run_shard(store, "place", step, Shard("000000", ShardSpec()))
    assert [file.rows for file in done.data_files] == list(sizes) and done.rows == sum(sizes)
    assert done.counts == {"rows": sum(sizes)}
    assert [store.exists(name) for name in done.files] == [True] * len(sizes)
    assert sorted(done.files) == list(done.files)
    again = staging.run_shard(store, "place", step, Shard("000000", ShardSpec()))
    assert again == done == staging.published(store, "place")[done.id]
    assert len(store.list("place/data")) == len(sizes), "what came second is deleted"
