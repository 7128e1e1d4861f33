import multiprocessing
from collections import Counter

import pyarrow as pa
import pytest

from rasterloom.schema import SCORES, TOKENS
from rasterloom.storage import Store
from rasterloom.versions.commit import commit, head_snapshot
from rasterloom.versions.history import log
from rasterloom.versions.record import Record
from rasterloom.versions.tables import Corpus

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
        names.append(f"demo/staging/{step}/{fingerprint}/data/{number}.parquet")
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


def _commit_from_another_process(root, fingerprint, target, key, start, results):
    corpus = Corpus("demo", Store(root))
    start.wait()
    results.put(commit_tokens(corpus, fingerprint, tokens(target, "64x64", [key]), target=target))


@pytest.mark.parametrize("same", [True, False])
def test_drivers_that_commit_at_once(corpus, same):
    """Two drivers of one step give one version; drivers of different steps all get theirs in."""
    context = multiprocessing.get_context("spawn")
    commit_tokens(corpus, "f0", tokens(64, "64x64", "z"))
    start, results = context.Barrier(4), context.Queue()
    jobs = [("f1", 64, "a") if same else (f"f{n}", 64 + 32 * n, "abcd"[n]) for n in range(4)]
    processes = [
        context.Process(target=_commit_from_another_process, args=(corpus.store.root, *job, start, results))
        for job in jobs
    ]
    for process in processes:
        process.start()
    snapshots = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    if same:
        assert len(set(snapshots)) == 1
        assert keys(corpus) == ["a"]
    else:
        assert len(set(snapshots)) == 4
        assert Counter(keys(corpus)) == Counter("abcd")
