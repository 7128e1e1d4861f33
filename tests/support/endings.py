"""Clean-up of a test run that SIGTERM ends: fixtures are torn down, then every process left is killed."""

import contextlib
import signal

import psutil

_ended = []  # the processes below this one when SIGTERM came


def arm():
    """Handle SIGTERM; called for each test, because `ray.init` replaces the handler."""
    if signal.getsignal(signal.SIGTERM) is not _end:
        signal.signal(signal.SIGTERM, _end)


def _end(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends the run at once
    _ended.extend(psutil.Process().children(recursive=True))
    # pytest tears its fixtures down for it, and no `except Exception` of a test swallows it.
    raise KeyboardInterrupt("SIGTERM")


def stop_after_rays_handler(item, call):
    """Stop the run where Ray's handler made the signal an exit."""
    if call.excinfo and call.excinfo.errisinstance(SystemExit) and call.excinfo.value.code == signal.SIGTERM:
        _ended.extend(psutil.Process().children(recursive=True))
        item.session.shouldstop = "SIGTERM"


def kill_what_is_left(grace_s=10):
    """End this one's processes of SIGTERM's time, with a grace period."""
    if not _ended:
        return
    left = {*_ended, *psutil.Process().children(recursive=True)}
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
