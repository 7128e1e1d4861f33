"""Watch over Ray's controller (GCS), without which no run goes on."""

import atexit
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rasterloom.errors import FAILED, StepFailed
from rasterloom.utils.last_words import last_words

LOST = (
    "Ray's controller (GCS) was lost: on this machine its process, on a cluster its head. "
    "What was finished is kept: run the same command again"
)
LOOK_EVERY_S, ANSWER_S = 1.0, 5.0
HERE_S = 3.0  # until a controller of this machine counts as lost: nothing starts it again
# Errors of this process, which tell nothing of the other end.
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
LEAVE_S = 15.0  # for the end of a run without one
GIVES_UP = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's own patience, after which it aborts the process
GIVES_UP_S = 60.0
logger = logging.getLogger(__name__)


class Controller:
    """Controller that this process is connected to, and whether it was lost."""

    def __init__(self) -> None:
        self.is_lost = False
        self._address = ""
        self._over = threading.Event()
        self._over.set()

    def watch(self, *, is_local: bool) -> None:
        """Watch the controller until this process is disconnected from it."""
        import ray  # heavy

        self._address, self.is_lost = ray.get_runtime_context().gcs_address, False
        theirs = float(os.environ.get(GIVES_UP, GIVES_UP_S)) - 2 * LEAVE_S
        patience = HERE_S if is_local else max(HERE_S, theirs)
        threading.Thread(
            target=self._watch, args=(self._address, patience), name="controller", daemon=True
        ).start()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """End the block where the controller is lost: as SIGTERM does, and by force if that takes too long.

        Raises:
            StepFailed: it was lost.
        """
        self._over = over = threading.Event()
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if not (self.is_lost or (isinstance(error, Exception) and self._is_gone())):
                raise
            logger.error("without Ray's controller the run failed", exc_info=error)
            if last_words.is_wanted:
                atexit.register(_leave)
            raise StepFailed(LOST) from error
        finally:
            over.set()

    def _is_gone(self) -> bool:
        """Tell whether nobody answers, which then is why something failed."""
        ray = sys.modules.get("ray")
        return ray is not None and ray.is_initialized() and not answers(self._address)

    def _watch(self, address: str, patience_s: float) -> None:
        import ray  # heavy

        seen = time.monotonic()
        while ray.is_initialized() and self._address == address:
            if answers(address):
                seen = time.monotonic()
            elif time.monotonic() - seen > patience_s:
                logger.error("Ray's controller at %s has not answered for %.0f s", address, patience_s)
                self._end()
                return
            time.sleep(LOOK_EVERY_S)

    def _end(self) -> None:
        over = self._over
        if over.is_set() or not callable(signal.getsignal(signal.SIGTERM)):
            return  # nothing is under way, or in another thread than the main one, which signals do not reach
        self.is_lost = True
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(LEAVE_S) and last_words.is_wanted:  # it waits for Ray, which cannot be interrupted
            logger.error("the run waits without Ray's controller, and is ended:\n%s", _stack())
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{LOST}\n".encode())
            _leave()


def answers(address: str) -> bool:
    """Tell whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return True
    except ValueError:
        return False
    except OSError as error:
        return error.errno in OURS


def _stack() -> str:
    """Return where the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame))


def _leave() -> None:
    """End the process now: Ray's exit handlers would wait for the controller, and abort with their words."""
    last_words.dismiss()
    with suppress(OSError, ValueError):  # nobody reads any more
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(FAILED)


controller = Controller()
