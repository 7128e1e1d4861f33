"""What the commands share: arguments, and where they print."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from rasterloom.utils.redact import LINES, as_json, safe
from rasterloom.versions.corpus import Corpus

if TYPE_CHECKING:
    from rasterloom.pipelines.progress.reporter import Progress
    from rasterloom.pipelines.workflow import Workflow


def tell_settled(corpus: Corpus) -> None:
    """Take out what a step back in time brought back, and say so."""
    from rasterloom.pipelines.maintenance.apply_takedowns import apply_pending

    gone = apply_pending(corpus)
    if gone:
        rows = ", ".join(f"{table} {n:,}" for table, n in gone.items())
        out.print(f"What was taken down since stays out: {rows}", highlight=False)


def where(workflow: "Workflow", last: str, here: bool = False) -> str:
    """The lines that say where the results of a run lie; what is on S3 is brought ``here`` if asked."""
    from rasterloom.pipelines.run import result_files

    return "\n".join(_places(result_files(workflow, last, here)))


def _places(files: dict[str, str]) -> list[str]:
    return [f"{name}: {path}" for name, path in files.items()]


AT_STEP = (
    "A checkpoint in the middle of the stage, by its optimizer step, or latest; without --stage, of the last "
    "stage that has any."
)


class SafeConsole(Console):
    """Where all commands print: a string is text, never markup, and fit to be shown.

    Markup is what the program writes itself: ``markup=True``, with strangers' words in no part of it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string, one of a table too, before rich measures it."""
        return super().render_str(safe(text, LINES), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Draw anything; whoever made a Text by hand is covered as well."""
        for segment in super().render(renderable, options):
            fit = segment.text.isprintable() or segment.control
            yield segment if fit else Segment(safe(segment.text, LINES), segment.style)

    def status(self, status: RenderableType, **options: Any) -> "SafeStatus":
        return SafeStatus(_text(status), console=self, **options)


class SafeStatus(Status):
    """A spinner whose strings are text, not markup."""

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(_text(status) if status is not None else None, **options)


def _text(given: RenderableType) -> RenderableType:
    return Text(safe(given)) if isinstance(given, str) else given


out = SafeConsole()
err = SafeConsole(stderr=True)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


AsFormat = Annotated[OutputFormat, typer.Option("--format", help="A table to read, or JSON lines.")]

Until = Annotated[
    str | None,
    typer.Option(metavar="STEP", help="Stop after this step, such as selection, tokens or tokens/512."),
]

Retry = Annotated[
    str, typer.Option(metavar="CLASSES", help="Fetch failed pairs again first: timeout,http_5xx.")
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors, nothing else.")]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


LogAs = Annotated[
    LogFormat, typer.Option("--log", help="How to tell what goes on: for people, or a JSON object a line.")
]


def run_or_skip(runs: bool) -> Text:
    return Text("run", style="bold") if runs else Text("skip", style="dim")


def print_json(value: Any) -> None:
    """Print an object in a line, for programs: logins are masked there too."""
    print(as_json(value))


def progress_on(console: Console, quiet: bool, log: LogFormat) -> "Progress":
    """What a long command tells while it works."""
    from rasterloom.pipelines.progress.reporter import Progress

    return Progress(
        SafeConsole(quiet=True) if quiet else console, as_json=log is LogFormat.JSON and not quiet
    )


def result(log: LogFormat, lines: list[str], **facts: Any) -> None:
    """Print what came of a command: lines, or one JSON object with the facts."""
    if log is LogFormat.JSON:
        print_json({"event": "result", **facts})
        return
    for line in lines:
        out.print(line, highlight=False)
