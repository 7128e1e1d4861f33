"""Work of one rank that others wait for, by one rank in this process (test_resume.py has several)."""

import logging
import threading

import pytest

from rasterloom.errors import StorageError
from rasterloom.train import distributed
from rasterloom.train.distributed import once, once_a_machine

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture(params=[once, once_a_machine])
def wait_for(request):
    return request.param


def test_it_is_done_when_the_call_returns(wait_for):
    done = []
    wait_for("a thing", lambda: done.append(1))
    assert done == [1]


def test_its_error_is_raised(wait_for):
    def fail():
        raise StorageError("no")

    with pytest.raises(StorageError, match=r"^no$"):
        wait_for("a thing", fail)


def test_a_long_wait_is_said_and_ends(wait_for, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    end = threading.Event()
    monkeypatch.setattr(distributed, "SAID_S", 0.05)
    monkeypatch.setattr(distributed, "LIMIT_S", 0.5)
    try:
        with pytest.raises(StorageError, match=r"minutes this has not ended: a slow thing$"):
            wait_for("a slow thing", lambda: end.wait(60))
    finally:
        end.set()
    said = [record.getMessage() for record in caplog.records]
    assert said and all(line.startswith("a slow thing: 1 of 1 ranks are at it, for ") for line in said)
