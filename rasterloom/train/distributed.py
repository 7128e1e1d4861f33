"""Collective helpers for the ranks of the default process group."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

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


def once_a_machine(work: Callable[[], None]) -> None:
    """Do something on each machine's first rank, while others wait."""
    machines = gathered(socket.gethostname())
    error = None
    if machines.index(socket.gethostname()) == dist.get_rank():
        try:
            work()
        except Exception as raised:
            error = raised
    all_succeed(error)
