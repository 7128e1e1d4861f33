"""Private parts of rich 13 to 15 that Rasterloom relies on."""

import math
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.segment import Segment

HOLDS_FOR = ("13", "14", "15")


class ResizableLive(Live):
    """Live display that survives a terminal made narrower."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._live_render = _Frames(self.get_renderable(), vertical_overflow=self.vertical_overflow)


class _Frames(LiveRender):
    """Frames that know how many rows they take now.

    rich goes back by as many lines as it drew; a terminal that was made narrower has broken them up.
    """

    _drawn: tuple[list[int], Console] | None = None  # columns of each line, and where

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = [
            segment for segment in super().__rich_console__(console, options) if isinstance(segment, Segment)
        ]
        self._drawn = [Segment.get_line_length(line) for line in Segment.split_lines(segments)], console
        yield from segments

    def position_cursor(self) -> Control:
        self._break_up()
        return super().position_cursor()

    def restore_cursor(self) -> Control:
        self._break_up()
        return super().restore_cursor()

    def _break_up(self) -> None:
        if self._drawn and self._shape:
            lengths, console = self._drawn
            rows = sum(max(1, math.ceil(length / console.width)) for length in lengths)
            self._shape = (self._shape[0], rows)
