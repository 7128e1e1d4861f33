import multiprocessing
import time
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest

from rasterloom.schema import SCORES, TOKENS
from rasterloom.storage.store import Store
from rasterloom.versions.commit import commit, head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import log
from rasterloom.versions.record import Record

PARTITION = ("target", "bucket")


@pytest.fixture
def corpus(tmp_path):
    return Corpus("demo", Store(str(tmp_path)))


def record(step, fingerprint, **given):
    return Record(step, fingerprint, "1", {"a": {"b": 1}}, {}, **given)


def tokens(target, bucket, keys):
    rows = [
        {"target": target, "bucket": bucket, "key": key, "input_ids": [1, 2], "n_tokens": 2} for key in keys
    ]
    return pa.Table.from_pylist(rows, schema=TOKENS)


def write(corpus, step, fingerprint, *tables):
    names = []
    for number, table in enumerate(tables):
        names.append(f"{corpus.name}/staging/{step}/{fingerprint}/data/{number}.parquet")
        corpus.store.write_parquet(names[-1], table)
    return names


def commit_tokens(corpus, fingerprint, *tables, target=64):
    step = f"tokens/{target}"
    return commit(
        corpus,
        "tokens",
        TOKENS,
        write(corpus, step, fingerprint, *tables),
        record(step, fingerprint),
        replaces=f"target == {target}",
        partition_by=PARTITION,
    )


def keys(corpus, **where):
    return sorted(corpus.read("tokens", ["key"], **where)["key"].to_pylist())


def test_a_commit_replaces_its_own_rows_and_no_others(corpus):
    assert corpus.snapshot_id("tokens") is None
    first = commit_tokens(corpus, "f1", tokens(64, "64x64", "abc"), tokens(64, "96x32", "d"))
    commit_tokens(corpus, "g1", tokens(128, "128x128", "xy"), target=128)
    commit_tokens(corpus, "f2", tokens(64, "64x64", "b"))
    assert keys(corpus) == ["b", "x", "y"]
    assert keys(corpus, snapshot_id=first) == list("abcd")
    assert [f.partition for f in corpus.files("tokens", where="target == 64")] == [("64", "64x64")]


def test_the_same_fingerprint_is_committed_once(corpus):
    first = commit_tokens(corpus, "f1", tokens(64, "64x64", "abc"))
    assert commit_tokens(corpus, "f1", tokens(64, "64x64", "abc")) == first
    assert keys(corpus) == ["a", "b", "c"]
    assert len(log(corpus)) == 1


def test_an_earlier_result_can_come_back(corpus):
    commit_tokens(corpus, "f1", tokens(64, "64x64", "abc"))
    commit_tokens(corpus, "f2", tokens(64, "64x64", "b"))
    commit_tokens(corpus, "f1", tokens(64, "64x64", "abc"))
    assert keys(corpus) == ["a", "b", "c"]
    assert [v.record.fingerprint for v in log(corpus, "tokens")] == ["f1", "f2", "f1"]


def test_a_commit_of_no_files_empties(corpus):
    commit_tokens(corpus, "f1", tokens(64, "64x64", "abc"))
    commit_tokens(corpus, "f2")
    assert keys(corpus) == []
    assert head_snapshot(corpus, corpus.table("tokens"), "tokens/64")[1].fingerprint == "f2"


def test_columns_can_be_added(corpus):
    def scores(fingerprint, *columns):
        schema = pa.schema([*SCORES, *((c, pa.float64()) for c in columns)])
        table = pa.Table.from_pylist([{"key": "a", "shard": 0} | dict.fromkeys(columns, 0.5)], schema=schema)
        commit(
            corpus,
            "scores",
            schema,
            write(corpus, "scores", fingerprint, table),
            record("scores", fingerprint),
        )

    scores("f1", "quality")
    scores("f2", "quality", "clip")
    assert corpus.read("scores").to_pylist() == [{"key": "a", "shard": 0, "quality": 0.5, "clip": 0.5}]


def test_a_record_survives(corpus):
    written = record("tokens/64", "f", counts={"ok": 3}, parents={"images": "17"}, rows=3, seconds=1.5)
    written = written.signed("digest", "0.1")
    assert Record.from_properties(written.to_properties()) == written
    assert Record.from_json(written.to_json()) == written
    assert Record.from_properties({"operation": "append"}) is None


@pytest.fixture(params=["sqlite", "rest"])
def shared(request, corpus):
    """The corpus in each of two catalogs: an SQLite file on a disk, and REST with the data on S3."""
    if request.param == "sqlite":
        return corpus
    server = request.getfixturevalue("seaweedfs")
    name = f"c{uuid.uuid4().hex}"
    return Corpus(name, Store(f"s3://lake/{name}"), tuple(server.catalog.items()))


@pytest.fixture(scope="module")
def at_once(seaweedfs):
    """A function that has a process commit each (table, step, fingerprint, row), all at one time."""
    with ProcessPoolExecutor(8, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.5] * 8))  # all have begun

        def run(corpus, jobs):
            start = time.time() + 0.5
            return list(pool.map(_commit, [replace(corpus)] * len(jobs), jobs, [start] * len(jobs)))

        yield run


def _commit(corpus, job, start):
    time.sleep(max(0, start - time.time()))
    table, step, fingerprint, given = job
    schema = TOKENS if table == "tokens" else SCORES
    file = write(corpus, step, fingerprint, pa.Table.from_pylist([given], schema=schema))
    replaces = f"target == {given['target']}" if table == "tokens" else ""
    partition = PARTITION if table == "tokens" else ()
    done = record(step, fingerprint)
    return commit(corpus, table, schema, file, done, replaces=replaces, partition_by=partition)


def token_row(target, key):
    (row,) = tokens(target, f"{target}x{target}", [key]).to_pylist()
    return row


def test_drivers_of_one_step_make_one_version(shared, at_once):
    snapshots = at_once(shared, [("tokens", "tokens/64", "f1", token_row(64, "a"))] * 4)
    assert len(set(snapshots)) == 1
    assert keys(shared) == ["a"] and len(log(shared, "tokens")) == 1


def test_drivers_of_different_steps_all_get_theirs_in(shared, at_once):
    commit_tokens(shared, "f0", tokens(64, "64x64", "z"))
    jobs = [("tokens", f"tokens/{64 + 32 * n}", f"f{n}", token_row(64 + 32 * n, "abcd"[n])) for n in range(4)]
    assert len(set(at_once(shared, jobs))) == 4
    assert Counter(keys(shared)) == Counter("abcd"), "z gave way to the step's next version"


def test_eight_writers_of_different_tables_lose_nothing(shared, at_once):
    jobs = [(f"scores{n}", f"scores{n}", f"f{n}", {"key": f"{n}", "shard": n}) for n in range(8)]
    assert len(set(at_once(shared, jobs))) == 8
    for n in range(8):
        assert shared.read(f"scores{n}").to_pylist() == [{"key": f"{n}", "shard": n}]
