"""Threads over items, with progress."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 8  # files that are looked at


S = TypeVar("S")


T = TypeVar("T")


Advance = Callable[[str, int, int], None]  # what is looked at, how many of how many


def silent(what: str, done: int, total: int) -> None:
    pass


def spread(work: Callable[[S], T], items: list[S], what: str = "", advance: Advance = silent) -> list[T]:
    """Do something with each of some items, several at once."""
    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, one in enumerate(pool.map(work, items), 1):
            found.append(one)
            advance(what, number, len(items))
    return found
