"""Work done in a second of CPU time."""

import time
from collections.abc import Callable

LEAST_S = 1.0  # each figure is taken over at least so long


def rate(work: Callable[[], object], items: int = 1) -> float:
    """Items per second of CPU time, after one warm-up call."""
    work()
    start, calls = time.process_time(), 0
    while time.process_time() - start < LEAST_S:
        work()
        calls += 1
    return calls * items / (time.process_time() - start)
