"""Threads over items, and the callback type of all progress."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 8

S = TypeVar("S")
T = TypeVar("T")

Advance = Callable[[int, int | None], None]
"""Called with the units done so far, and their number in all, None where it is not known."""
AdvancePart = Callable[[str], Advance]
"""Called with the name of a part of the work that begins; returns the callback of that part."""


def silent(done: int, total: int | None = None) -> None:
    """Report nothing."""


def silent_part(part: str) -> Advance:
    """Report nothing of any part."""
    return silent


def adding(advance: Advance, total: int | None = None) -> Callable[[int], None]:
    """Return a callback that adds up units for ``advance``."""
    done = 0

    def add(units: int) -> None:
        nonlocal done
        done += units
        advance(done, total)

    return add


def spread(work: Callable[[S], T], items: list[S], advance: Advance = silent) -> list[T]:
    """Return what ``work`` returns for each item, from several threads."""
    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for number, one in enumerate(pool.map(work, items), 1):
            found.append(one)
            advance(number, len(items))
    return found
