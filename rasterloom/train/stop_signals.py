"""SIGTERM and SIGINT: as an event of the driver, and as a request to a worker."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Turn SIGTERM and the first SIGINT into an event, during a block.

    Outside the main thread, which alone gets signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class SigtermRequest:
    """Handler of a worker's SIGTERM: the first while it trains is a request, any other ends the process."""

    def __init__(self) -> None:
        self.is_made = False
        self._is_training = False
        self._before = signal.getsignal(signal.SIGTERM)

    @classmethod
    def install(cls) -> None:
        """Become this process's handler; the main thread alone can."""
        signal.signal(signal.SIGTERM, cls())

    @classmethod
    def installed(cls) -> Self:
        """This process's handler, for any thread.

        Raises:
            RuntimeError: `install` has not been called, or another handler has taken its place.
        """
        handler = signal.getsignal(signal.SIGTERM)
        if not isinstance(handler, cls):
            raise RuntimeError(f"SIGTERM is handled by {handler!r}: nothing would be saved before the end")
        return handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._is_training and not self.is_made:
            self.is_made = True
        else:
            signal.signal(signal.SIGTERM, self._before)
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take a SIGTERM as a request, as long as the block lasts."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False
