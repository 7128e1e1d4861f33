"""Retries: how often, after what pauses, of which errors, and that each is logged."""

import logging
import time
from itertools import pairwise

import pytest

from rasterloom.storage import transfer
from rasterloom.storage.s3 import READS
from rasterloom.utils.retry import RetryPolicy
from rasterloom.versions import retrying


def is_oserror(error: BaseException) -> bool:
    return isinstance(error, OSError)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none is waited for."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


class Shaky:
    """Work that fails so often before it succeeds."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.left, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def test_work_is_tried_until_it_succeeds_and_each_retry_is_logged(pauses, caplog):
    work = Shaky(2, OSError("reset at\nhttp://here"))
    with caplog.at_level(logging.WARNING, "rasterloom"):
        assert RetryPolicy(is_oserror, tries=3).call("read of x", work) == "done"
    assert work.calls == 3 and len(pauses) == 2
    assert [r.name for r in caplog.records] == ["rasterloom.utils.retry"] * 2
    assert "read of x: try 1 of 3 failed, next in" in caplog.text
    assert "OSError: reset at http://here" in caplog.text


def test_the_last_error_is_raised_as_it_is(pauses):
    work = Shaky(9, OSError("reset"))
    with pytest.raises(OSError) as raised:
        RetryPolicy(is_oserror, tries=3).call("read", work)
    assert raised.value is work.error and work.calls == 3


def test_another_error_is_raised_at_once(pauses, caplog):
    work = Shaky(9, ValueError("no"))
    with pytest.raises(ValueError):
        RetryPolicy(is_oserror, tries=3).call("read", work)
    assert work.calls == 1 and not pauses and not caplog.records


def test_pauses_double_up_to_a_cap(pauses):
    policy = RetryPolicy(is_oserror, tries=6, base_s=0.5, cap_s=3.0, jitter=0)
    policy.call("read", Shaky(5, OSError()))
    assert pauses == [0.5, 1, 2, 3, 3]


def test_pauses_are_jittered(pauses):
    RetryPolicy(is_oserror, tries=200, base_s=1, cap_s=1, jitter=0.25).call("read", Shaky(199, OSError()))
    assert 0.75 <= min(pauses) < 0.85 and 1.15 < max(pauses) <= 1.25


def test_no_try_begins_after_the_deadline(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    work = Shaky(999, OSError())
    policy = RetryPolicy(is_oserror, tries=999, base_s=1, cap_s=1, jitter=0, deadline_s=10)
    with pytest.raises(OSError):
        policy.call("read", work)
    assert now[0] == 10


def test_an_attempt_of_a_loop_may_be_left_and_entered_again(pauses):
    seen = []
    for number, attempt in enumerate(RetryPolicy(is_oserror, tries=4).attempts("commit")):
        with attempt:
            seen.append(number)
            if number < 2:
                raise OSError
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("policy", "tries", "most_s"),
    [(READS, 6, 4.65), (transfer.UPLOADS, 3, 0.45), (retrying.NETWORK, 6, 4.65), (retrying.COMMITS, 20, 20)],
)
def test_each_policy_of_ours_is_bounded(policy, tries, most_s):
    """As often as ever, and never longer than this in all."""
    steps = [min(policy.cap_s, policy.base_s * 2**n) for n in range(tries - 1)]
    assert policy.tries == tries and sum(steps) * (1 + policy.jitter) <= most_s + 1e-9
    assert all(a <= b for a, b in pairwise(steps))
