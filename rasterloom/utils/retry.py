"""Retries with growing pauses."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_base

from rasterloom.errors import one_line

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Errors that are retried, how often, and with which pauses."""

    retried: Callable[[BaseException], bool]
    tries: int
    base_s: float = 0.1  # pause after the first try; each further one is twice as long
    cap_s: float = 10.0
    jitter: float = 0.5  # share of a pause by which it is longer or shorter
    deadline_s: float | None = None  # since the first try; none begins later

    def attempts(self, what: str) -> Retrying:
        """Return the attempts, for ``for attempt in ...: with attempt: ...``.

        An error that is not retried, and that of the last attempt, is raised as it is.

        Args:
            what: name of the work in the log.
        """
        stop = stop_after_attempt(self.tries)
        return Retrying(
            stop=stop if self.deadline_s is None else stop | stop_after_delay(self.deadline_s),
            wait=_Pause(self),
            retry=retry_if_exception(self.retried),
            before_sleep=lambda state: self._log(what, state),
            reraise=True,
        )

    def call(self, what: str, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; see :meth:`attempts`."""
        return self.attempts(what)(work)

    def _log(self, what: str, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            reason = f"{type(error).__name__}: {one_line(error)}"
            pause = state.upcoming_sleep
            logger.warning(
                "%s: try %d of %d failed, next in %.2f s: %s",
                what,
                state.attempt_number,
                self.tries,
                pause,
                reason,
            )


class _Pause(wait_base):
    """A doubling pause up to a cap, jittered in proportion."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    def __call__(self, retry_state: RetryCallState) -> float:
        policy = self._policy
        pause = min(policy.cap_s, policy.base_s * 2.0 ** (retry_state.attempt_number - 1))
        return pause * random.uniform(1 - policy.jitter, 1 + policy.jitter)
