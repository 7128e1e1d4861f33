"""Progress of a run: a live bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_EVERY_S = 5.0


class Progress:
    """One bar at a time, for the step that is running."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Bars | None = None
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._rows = 0
        self._started = self._said = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator["Progress"]:
        """Show the live display as long as the block lasts, if there is a terminal."""
        if not self.console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console, transient=True) as self._bars:
            yield self
        self._bars = None

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """Begin a step of ``total`` units (unknown when None), some of them done by an earlier run."""
        self._name, self._total, self._done, self._rows = name, total, done, 0
        self._started = self._said = time.monotonic()
        if self._bars:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.add_task(name, total=total, completed=done, note="")

    def advance(self, units: int = 1, rows: int = 0, note: str = "") -> None:
        """Say that units more are done."""
        self._rows += rows
        self.update(self._done + units, note or self._rate())

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Say how many units are done in all."""
        self._done = done
        self._total = total if total is not None else self._total
        if self._bars:
            self._bars.update(self._bars.task_ids[0], completed=done, total=self._total, note=note)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            of = "" if self._total is None else f"/{self._total}"
            self.console.print(f"  {self._name}: {done}{of} {note}", highlight=False)

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self._rows / seconds:,.0f} rows/s" if self._rows and seconds > 0.5 else ""
