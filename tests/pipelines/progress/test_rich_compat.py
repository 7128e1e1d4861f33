"""Private parts of rich: they are there in the version that is pinned, and do what they are for."""

from importlib.metadata import version
from io import StringIO

from rich.console import Console
from rich.text import Text

from rasterloom.pipelines.progress.rich_compat import HOLDS_FOR, ResizableLive

UP = "\x1b[1A"


def test_they_hold_for_the_version_that_is_installed():
    assert version("rich").split(".")[0] in HOLDS_FOR, "look through rich_compat.py again"


def test_lines_that_a_narrower_terminal_broke_up_are_drawn_over():
    console = Console(file=StringIO(), force_terminal=True, width=80, height=20)
    live = ResizableLive(console=console, get_renderable=lambda: Text("x" * 70), auto_refresh=False)
    with live:
        live.refresh()
        console.width = 30  # 70 columns take three lines of 30
        before = len(console.file.getvalue())
        live.refresh()
        assert console.file.getvalue()[before:].count(UP) == 2
        console.width = 80
