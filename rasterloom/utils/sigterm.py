"""SIGTERM, which stops a command as Ctrl-C does."""

import signal
import threading
from types import FrameType


class Sigterm:
    """Handler of SIGTERM, which remembers that one came."""

    def __init__(self) -> None:
        self.came = False

    def heed(self) -> None:
        """Become this process's handler; the main thread alone can."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


sigterm = Sigterm()
