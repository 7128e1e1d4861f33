"""Collective helpers for the ranks of the default process group."""

import logging
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from rasterloom.errors import StorageError
from rasterloom.utils.parallel import Behind

BEAT_S = 5.0  # between meetings of ranks that wait for others, at most
SAID_S = 30.0  # between lines of the log that say so
LIMIT_S = 3600.0  # of the wait
logger = logging.getLogger(__name__)
T = TypeVar("T")


def on_rank_0(work: Callable[[], T]) -> T:
    """Do something on rank 0 alone. Every rank gets its result, or raises its error."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def gathered(value: T) -> list[T]:
    """Everyone's value, by rank, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_succeed(error: Exception | None) -> None:
    """Raise on every rank what one of them met: the first by rank."""
    for found in gathered(error):
        if found is not None:
            raise found


def once_a_machine(what: str, work: Callable[[], None]) -> None:
    """Do something on each machine's first rank, while others wait. Every rank calls this.

    Args:
        what: said of it where it takes long, as in "the checkpoint is copied".

    Raises:
        StorageError: it has taken longer than ``LIMIT_S``.
    """
    machines = gathered(socket.gethostname())
    _while_others_wait(what, work if machines.index(machines[dist.get_rank()]) == dist.get_rank() else None)


def once(what: str, work: Callable[[], None]) -> None:
    """Do something on rank 0, while others wait, as `once_a_machine` does."""
    _while_others_wait(what, work if dist.get_rank() == 0 else None)


def _while_others_wait(what: str, work: Callable[[], None] | None) -> None:
    """Do one's part, if there is one, and wait for the others'.

    Ranks meet every few seconds, so that no time limit of the process group ends the wait.
    """
    task = Behind(work, what) if work else None
    began, said, pause = time.monotonic(), 0.0, 0.01
    while True:
        if task is not None:
            task.wait(pause)
        took = time.monotonic() - began
        states = gathered((task is not None and not task.done, took > LIMIT_S))
        busy = sum(at_work for at_work, _ in states)
        if not busy:
            break
        if any(late for _, late in states):
            raise StorageError(f"after {LIMIT_S / 60:.0f} minutes this has not ended: {what}")
        if dist.get_rank() == 0 and took > said + SAID_S:
            said = took
            logger.info("%s: %d of %d ranks are at it, for %.0f s", what, busy, len(states), took)
        pause = min(2 * pause, BEAT_S)
    all_succeed(task.wait() if task else None)
