"""Which snapshots have to stay, and that a table is whole without the others."""

import json
from dataclasses import replace

import pytest

from rasterloom.versions import expire_snapshots
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.history import log, made
from rasterloom.versions.last_versions import OTHERS, last_versions
from rasterloom.versions.record import BEFORE_TAKEDOWN
from rasterloom.versions.refs import branch, tag
from rasterloom.versions.replace_files import replace_files
from rasterloom.versions.verify import verify

NOW = 10**15  # milliseconds of the epoch, far ahead: nothing is young


@pytest.fixture
def three_targets(corpus, publish, tokens):
    """Tokens of three targets, those of the first made once, those of the others again and again."""
    publish(corpus, "a1", tokens("abc", target=64), step="tokens/64")
    for number in (1, 2, 3):
        publish(corpus, f"b{number}", tokens("ab", target=96), step="tokens/96")
        publish(corpus, f"c{number}", tokens("a", target=128), step="tokens/128")
    return corpus


def steps(corpus):
    return {v.record.step: (v.record.fingerprint, v.record.rows) for v in made(corpus)}


def keys(corpus):
    return sorted(zip(*corpus.read("tokens", ["target", "key"]).to_pydict().values(), strict=True))


def test_what_made_the_present_version_stays(three_targets):
    before, rows = steps(three_targets), keys(three_targets)
    assert before == {"tokens/64": ("a1", 3), "tokens/96": ("b3", 2), "tokens/128": ("c3", 1)}
    own = {v.snapshot_id for v in made(three_targets)}
    assert expire_snapshots.expire(three_targets, "tokens", NOW, ()) > 0
    assert {s.snapshot_id for s in three_targets.table("tokens").snapshots()} == own
    assert steps(three_targets) == before and keys(three_targets) == rows
    assert expire_snapshots.expire(three_targets, "tokens", NOW, ()) == 0


@pytest.fixture
def taken_down(three_targets):
    """A takedown took a row out of tokens/96: all snapshots before hold it."""
    table = three_targets.table("tokens")
    snapshot, record = head_snapshot(three_targets, table, "tokens/96")
    (old,) = (f.name for f in three_targets.files("tokens") if f.partition[0] == "96")
    new = old.replace("0.parquet", "1.parquet")
    rows = three_targets.dataset([old]).to_table()
    three_targets.store.write_parquet(new, rows.slice(0, 1))
    record = replace(record, rows=1, parents={BEFORE_TAKEDOWN: str(snapshot.snapshot_id)})
    assert replace_files(three_targets, "tokens", {old: new}, record)
    return three_targets


def test_of_a_takedown_nothing_stays_that_holds_what_it_took(taken_down):
    before, rows = steps(taken_down), keys(taken_down)
    assert before == {"tokens/64": ("a1", 3), "tokens/96": ("b3", 1), "tokens/128": ("c3", 1)}
    assert expire_snapshots.expire(taken_down, "tokens", NOW, ()) > 0
    table = taken_down.table("tokens")
    assert len(table.snapshots()) == 1
    reached = expire_snapshots.reach(table, [table.current_snapshot().snapshot_id]).data
    assert taken_down.store.uri("demo/staging/tokens/96/b3/data/0.parquet") not in reached
    assert steps(taken_down) == before and keys(taken_down) == rows
    assert {v.record.step for v in log(taken_down)} == set(before)
    snapshot, record = head_snapshot(taken_down, table, "tokens/64")
    files = taken_down.files("tokens", snapshot.snapshot_id, "target == 64")
    assert record.fingerprint == "a1" and sum(f.rows for f in files) == 3
    assert not verify(taken_down)[1]


def test_what_is_committed_after_that_goes_on_from_it(taken_down, publish, tokens):
    three_targets = taken_down
    expire_snapshots.expire(three_targets, "tokens", NOW, ())
    publish(three_targets, "b4", tokens("xy", target=96), step="tokens/96")
    assert steps(three_targets)["tokens/64"] == ("a1", 3) and steps(three_targets)["tokens/96"] == ("b4", 2)
    number = len(three_targets.table("tokens").snapshots())
    publish(three_targets, "a1", tokens("abc"), step="tokens/64")
    assert len(three_targets.table("tokens").snapshots()) == number, "made before"


def test_snapshots_that_carry_nothing_keep_those_before_them(three_targets):
    """As tables have them that were made before snapshots carried records."""
    table = three_targets.table("tokens")
    for snapshot in table.snapshots():
        snapshot.summary.additional_properties.pop(OTHERS, None)
    head = table.current_snapshot()
    assert {s: r.fingerprint for s, (_, r) in last_versions(table, head).items()} == {
        "tokens/128": "c3", "tokens/96": "b3", "tokens/64": "a1",
    }  # fmt: skip
    assert expire_snapshots.staying(table, NOW, ()) == {s.snapshot_id for s in table.snapshots()}


def test_tags_branches_the_young_and_what_is_worked_on_stay(corpus, publish, tokens):
    first = publish(corpus, "t1", tokens("a"))
    tag(corpus, "v1")
    second = publish(corpus, "t2", tokens("ab"))
    branch(corpus, "trial")
    third, fourth = (publish(corpus, f"t{n}", tokens("abc")) for n in (3, 4))
    head = publish(corpus, "t5", tokens("abcd"))
    table = corpus.table("tokens")
    made_by = {
        r.fingerprint for s in table.snapshots() for r in expire_snapshots.records_of(table, [s.snapshot_id])
    }
    assert made_by == {"t1", "t2", "t3", "t4", "t5"}
    assert expire_snapshots.staying(table, 0, ()) >= {first, second, third, fourth, head}
    kept = expire_snapshots.staying(table, NOW, {"t4"})
    assert kept >= {first, second, fourth, head} and third not in kept
    expire_snapshots.expire(corpus, "tokens", NOW, {"t4"})
    reached = expire_snapshots.reach(corpus.table("tokens"), kept)
    names = {corpus.store.name_of(uri) for uri in reached.data}
    assert {name.split("/")[-3] for name in names} == {"t1", "t2", "t4", "t5"}
    assert all(corpus.store.exists(name) for name in names)


def test_a_snapshot_tells_who_made_what_it_carries(three_targets):
    head = three_targets.table("tokens").current_snapshot()
    carried = json.loads(head.summary.additional_properties[OTHERS])
    assert {step: other["record"]["fingerprint"] for step, other in carried.items()} == {
        "tokens/64": "a1", "tokens/96": "b3",
    }  # fmt: skip
