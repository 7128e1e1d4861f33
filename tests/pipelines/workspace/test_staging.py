"""Shards between the worker that made them and the version that takes them in."""

import json

import pyarrow as pa
import pytest
from pydantic import BaseModel

from rasterloom.pipelines.maintenance import rewrite
from rasterloom.pipelines.step import Shard, ShardSpec, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.tombstones import Tombstones
from rasterloom.storage.footers import Footer
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


KEYED = pa.schema([("key", pa.string())])


def keyed(store, spec, config):
    return pa.table({"key": ["a", "b", "c"]}, schema=KEYED), {"rows": 3}


@pytest.fixture
def of_a_table(tmp_path):
    """A store, and a published shard of a table."""
    store = Store(str(tmp_path))
    step = ShardStep(
        "scores", Config(sizes=()), "1", plan=lambda *_: [], work=keyed, schema=KEYED, table="scores"
    )
    return store, staging.run_shard(store, "place", step, Shard("000000", ShardSpec()))


def test_a_shard_of_a_table_has_its_footers(of_a_table):
    _, done = of_a_table
    (text,) = done.footers.values()
    assert done.footers.keys() == done.files.keys()
    footer = Footer.of_text(text)
    assert (footer.rows, footer.size) == (3, done.bytes)
    assert [(c.path, c.least, c.greatest, c.nulls) for c in footer.columns] == [("key", "a", "c", 0)]


def test_what_was_taken_down_is_in_no_footer(of_a_table):
    store, done = of_a_table
    clean, *_ = rewrite.without(store, "place", [done], "scores", Tombstones(1, pa.array(["c"])))
    assert clean.rows == 2 and not clean.footers.keys() & done.footers.keys()
    assert staging.published(store, "place")[done.id].footers == clean.footers == {}


def test_a_shard_of_an_earlier_version_has_none(of_a_table):
    store, done = of_a_table
    name = next(filter(staging.is_published, store.list("place")))
    values = json.loads(store.read(name))
    del values["footers"]
    store.put(name, json.dumps(values).encode())
    assert staging.published(store, "place")[done.id].footers == {}
