"""End of a run at a time that the recipe sets."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rasterloom.utils.sigterm import sigterm


@contextmanager
def deadline(minutes: float | None, say: Callable[[str], None]) -> Iterator[None]:
    """Stop this process as SIGTERM does, once the block takes too long."""
    if minutes is None:
        yield
        return

    def stop() -> None:
        say(f"Its {minutes:g} minutes (run.deadline_minutes) are over")
        os.kill(os.getpid(), signal.SIGTERM)

    sigterm.heed()
    timer = threading.Timer(60 * minutes, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
