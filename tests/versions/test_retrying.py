"""Retries of catalogs and commits: what passes is tried again and logged, what stays is raised at once."""

import errno
import logging
import time
from dataclasses import replace

import pyarrow as pa
import pytest
from pyiceberg.exceptions import ForbiddenError, ServiceUnavailableError

from rasterloom.errors import StorageError
from rasterloom.schema import SCORES
from rasterloom.storage.store import Store
from rasterloom.versions import commit as commit_module
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import log
from rasterloom.versions.record import Record


@pytest.fixture
def corpus(tmp_path):
    return Corpus("demo", Store(str(tmp_path)))


def remote(corpus):
    """The same corpus with a catalog of the recipe's."""
    return replace(corpus, catalog_properties=(("uri", "sqlite://"),))


def failing(*errors):
    """Work that raises some errors, then returns how often it was called."""
    calls = iter(errors)
    made = []

    def work():
        made.append(1)
        if error := next(calls, None):
            raise error
        return len(made)

    return work


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_only_a_remote_corpus_is_tried_again(corpus):
    reset = ConnectionResetError("reset")
    assert not corpus.is_remote and remote(corpus).is_remote
    assert Corpus("demo", Store("s3://lake/x")).is_remote
    assert remote(corpus).with_retries("read", failing(reset, ServiceUnavailableError("busy"))) == 3
    with pytest.raises(ConnectionResetError):
        corpus.with_retries("read", failing(reset))


@pytest.mark.parametrize("error", [FileNotFoundError("a"), OSError(errno.ENOSPC, "full"), ValueError("no")])
def test_what_stays_is_not_tried_again(corpus, error):
    with pytest.raises(type(error)) as raised:
        remote(corpus).with_retries("read", failing(error))
    assert raised.value is error


def test_a_catalog_that_refuses_is_one_line(corpus):
    with pytest.raises(StorageError, match="does not let us in: expired; renew its token"):
        remote(corpus).with_retries("read", failing(ForbiddenError("expired.\n")))


def score(corpus, step):
    row = pa.Table.from_pylist([{"key": step, "shard": 0}], schema=SCORES)
    file = f"{corpus.name}/{step}.parquet"
    corpus.store.write_parquet(file, row)
    return commit(
        corpus, "scores", SCORES, [file], Record(step, "f", "1", {}, {}), replaces=f"key == '{step}'"
    )


def test_a_commit_that_loses_is_made_again_and_logged(corpus, monkeypatch, caplog):
    score(corpus, "first")
    commit_once, others = commit_module._commit_once, ["b", "c"]

    def beaten(*arguments):
        if others:
            score(replace(corpus), others.pop())  # another driver's, after this one has looked
        commit_once(*arguments)

    monkeypatch.setattr(commit_module, "_commit_once", beaten)
    with caplog.at_level(logging.WARNING, "rasterloom"):
        score(corpus, "mine")
    assert [version.record.step for version in log(corpus, "scores")] == ["mine", "c", "b", "first"]
    assert "commit of mine to demo.scores: try 1 of 20 failed" in caplog.text
    assert "CommitFailedException" in caplog.text


def test_a_slow_commit_is_logged(corpus, monkeypatch, caplog):
    score(corpus, "quick")
    monkeypatch.setattr(commit_module, "SLOW_S", 0.0)
    with caplog.at_level(logging.WARNING, "rasterloom"):
        score(corpus, "slow")
    assert [r.getMessage() for r in caplog.records] == ["commit of slow to demo.scores took 0 s, 1 files"]
