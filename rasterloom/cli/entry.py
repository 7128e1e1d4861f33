"""Entry of the program ``rasterloom``.

Ctrl-C and SIGTERM end it without a traceback, during imports as well. Whatever is imported above ``main`` has
no such guard, so this is only what Python has imported already.
"""

import sys

_INTERRUPTED = 130
LATER_S = 0.05


def main() -> None:
    """Run the command line, and exit with one of its exit codes."""
    code = _INTERRUPTED
    try:
        code = _run()
    except KeyboardInterrupt:
        from rasterloom.errors import STOPPED, STOPPED_TEXT  # heavy
        from rasterloom.utils.sigterm import sigterm  # heavy

        print(STOPPED_TEXT, file=sys.stderr)
        code = STOPPED if sigterm.came else _INTERRUPTED
    finally:
        _end_quietly()
    sys.exit(code)


def _run() -> int:
    from rasterloom.pipelines.cluster.environment import take  # heavy
    from rasterloom.utils.sigterm import sigterm  # heavy

    sigterm.heed()
    sys.unraisablehook = _deliver
    take()  # before the commands are imported: pyiceberg looks at the variables then
    from rasterloom.cli.app import run  # heavy
    from rasterloom.utils.last_words import last_words  # heavy

    last_words.is_wanted = True
    return run()


def _deliver(unraisable: "sys.UnraisableHookArgs", /) -> None:
    """Raise a lost Ctrl-C once more.

    It is lost where it comes in a destructor, or in compiled code that cannot raise it.
    """
    from _thread import interrupt_main  # heavy
    from threading import Timer  # heavy

    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        again = Timer(LATER_S, interrupt_main)  # raised here and now, it would be lost once more
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _end_quietly() -> None:
    """Let a first Ctrl-C at the end of the process pass.

    A second one ends it. Where Ctrl-C is not heeded at all, as in a shell's background, that stays.
    """
    import signal  # heavy

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL) and None)
