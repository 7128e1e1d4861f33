"""The console of all commands."""

import os
from io import StringIO

from rasterloom.cli.options import SafeConsole
from rasterloom.pipelines.progress.log_lines import TextLines
from rasterloom.pipelines.progress.reporter import Progress


def test_colours_that_are_asked_for_make_no_terminal_of_a_pipe(monkeypatch):
    """FORCE_COLOR is set by Jupyter and by CI: cursor codes of the live view would be text there."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = SafeConsole(file=StringIO(), force_jupyter=False)
    assert not console.is_terminal and isinstance(Progress(console)._display, TextLines)
    assert SafeConsole(file=StringIO(), force_terminal=True).is_terminal


def test_what_a_notebook_calls_has_no_terminal(monkeypatch):
    reader, writer = os.openpty()
    with open(reader), open(writer, "w") as tty:
        monkeypatch.delenv("JPY_PARENT_PID", raising=False)
        assert SafeConsole(file=tty).is_terminal
        monkeypatch.setenv("JPY_PARENT_PID", "4711")
        assert not SafeConsole(file=tty).is_terminal
