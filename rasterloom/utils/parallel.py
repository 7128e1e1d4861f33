"""Threads over items or behind a caller, and the callback of progress."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def ahead(
    work: Callable[[S], T], items: Iterable[S], threads: int, *, most: int, size: Callable[[S], int]
) -> Iterator[T]:
    """Yield what ``work`` returns for each item in order, prepared by threads.

    Args:
        most: sum of the sizes of items that are under way or wait to be taken; one item may be larger.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[Future[T], int]] = deque()
    held = 0
    try:
        for item in items:
            weight = size(item)
            while waiting and held + weight > most:
                found, gone = waiting.popleft()
                held -= gone
                yield found.result()
            waiting.append((pool.submit(work, item), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:  # also where what was yielded is not asked for to the end
        pool.shutdown(cancel_futures=True)


class Behind:
    """Work in a thread of its own, while its caller goes on."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        """Begin it."""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return not self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> Exception | None:
        """Wait, at most so long, and return what went wrong."""
        self._thread.join(seconds)
        return self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a thread's exception would be lost
            self._error = error
