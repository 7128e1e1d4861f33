"""From a checkpoint back to the sources, and from a picture on to the checkpoints that saw it."""

import pytest

from rasterloom.errors import VersionError
from rasterloom.versions.lineage import (
    ancestors,
    checkpoints_of,
    descendants,
    find,
    graph,
    holding,
)
from rasterloom.versions.record import Record


def steps(nodes):
    return [(node.record.step, node.record.fingerprint) for node in nodes]


@pytest.fixture
def trained(corpus, publish, tokens, selection):
    """Two versions of tokens, a stage trained on each, and a second stage that goes on from the first one."""

    def note(step, fingerprint, inputs, finished):
        record = Record(step, fingerprint, "1", {}, inputs, finished=finished)
        corpus.store.put(f"demo/records/{step}/{fingerprint}.json", record.to_json())
        corpus.store.put(f"demo/records/{step}/last.json", record.to_json())

    publish(corpus, "s1", selection("ABC"), step="selection")
    note("codes/64", "c1", {"selection": "s1"}, "2026-01-01")
    publish(corpus, "t1", tokens("abc"), inputs={"codes/64": "c1"})
    note("train/64", "r1", {"tokens/64": "t1"}, "2026-01-02")
    publish(corpus, "t2", tokens("ab"), inputs={"codes/64": "c1"})
    publish(corpus, "u1", tokens("ab", target=128), step="tokens/128", inputs={"codes/64": "c1"})
    note("train/64", "r2", {"tokens/64": "t2"}, "2026-01-03")
    note("train/128", "q1", {"tokens/128": "u1", "train/64": "r1"}, "2026-01-04")
    return corpus


def test_back_from_a_checkpoint(trained):
    nodes = graph(trained)
    found = ancestors(nodes, find(nodes, "r1"))
    assert set(steps(found)) == {
        ("train/64", "r1"), ("tokens/64", "t1"), ("codes/64", "c1"), ("selection", "s1"),
    }  # fmt: skip
    assert {node.table for node in found} == {None, "tokens", "selection"}


def test_on_from_a_version(trained):
    nodes = graph(trained)
    assert {step for step, _ in steps(descendants(nodes, find(nodes, "t1")))} == {
        "tokens/64", "train/64", "train/128",
    }  # fmt: skip


def test_a_node_by_step_snapshot_or_fingerprint(trained):
    nodes = graph(trained)
    assert find(nodes, "train/64").record.fingerprint == "r2", "the last one"
    snapshot = nodes["t1"].snapshot_id
    assert find(nodes, str(snapshot)) is nodes["t1"]
    with pytest.raises(VersionError, match=r"no step, snapshot or fingerprint x; .*train/128"):
        find(nodes, "x")
    with pytest.raises(VersionError, match="r begins 2 fingerprints"):
        find(nodes, "r")


def test_which_checkpoints_saw_a_row(trained):
    nodes = graph(trained)
    assert holding(trained, nodes, ["c"]) == {"t1": ["c"]}
    assert checkpoints_of(trained, nodes, ["c"]) == {"r1": ["c"], "q1": ["c"]}, "q1 has r1's weights"
    assert checkpoints_of(trained, nodes, ["b", "zz"]).keys() == {"r1", "r2", "q1"}
    assert checkpoints_of(trained, nodes, ["zz"]) == {}
