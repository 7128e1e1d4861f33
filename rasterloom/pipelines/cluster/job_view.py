"""View of a job's log as it grows."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from rasterloom.pipelines.progress.log_lines import POSITION
from rasterloom.utils.redact import safe


class JobView:
    """Print a job's log. On a terminal, how far its step is stays in one line at the bottom."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = ""  # of a line
        live = console.is_terminal and not console.is_dumb_terminal
        self._status = Status("", console=console) if live else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
            self._print(self._begun)

    def write(self, text: str) -> None:
        """Show the next part of the log."""
        if self._status is None:
            self._print(text)
            return
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.startswith("  ") and POSITION.match(line):
                self._status.update(Text(safe(line.strip()), no_wrap=True, overflow="ellipsis"))
            else:
                self._print(f"{line}\n")

    def _print(self, text: str) -> None:
        self._console.print(text, end="", markup=False, highlight=False)
