"""Arguments, consoles and messages that the commands share."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from rasterloom.errors import RasterloomError
from rasterloom.utils.redact import LINES, as_json, safe

if TYPE_CHECKING:
    from rasterloom.pipelines.progress.reporter import Progress
    from rasterloom.pipelines.workflow import Planned
    from rasterloom.recipe.recipe import Recipe
    from rasterloom.versions.corpus import Corpus

_given: list[Path] = []  # the recipe of this command, once it is read

# Arguments of the use cases whose option has another name; of all others the name is the option's.
OPTIONS = {"folder": "--out", "page": "--out"}


def with_options(error: RasterloomError) -> str:
    """Render an error with the command line's names for its arguments.

    A field of the recipe keeps its name.
    """

    def option(field: str) -> str:
        if "." in field or "[" in field:
            return field
        return OPTIONS.get(field) or f"--{field.replace('_', '-')}"

    return _with_line(error.text(option, "rasterloom run RECIPE --until {}".format))


def _with_line(text: str) -> str:
    """Put file and line before a message about a recipe's field."""
    if not _given or not re.match(r"[a-z_]+[.:\[]", text):
        return text
    from rasterloom.recipe.yaml_lines import line_of  # heavy

    line = line_of(_given[-1], text)
    return f"{_given[-1]}:{line}: {text}" if line else text


def note(path: Path | None) -> Path | None:
    """Remember the recipe that a command was given, for `_with_line`."""
    if path is not None:
        _given.append(path)
    return path


def load_recipe(path: Path | str) -> "Recipe":
    """Load a recipe, and import what that takes no sooner: ``--help`` does without."""
    from rasterloom.recipe.loader import load_recipe as load  # heavy

    return load(path)


def apply_pending_takedowns(corpus: "Corpus") -> None:
    """Remove rows that a rollback or branch restored, and print how many."""
    from rasterloom.pipelines.maintenance.apply_takedowns import apply_pending  # heavy

    gone = apply_pending(corpus)
    if gone:
        rows = ", ".join(f"{table} {n:,}" for table, n in gone.items())
        out.print(f"Rows taken down since stay out: {rows}", highlight=False)


def open_corpus(recipe: Path, at: str | None = None) -> "Corpus":
    """Open a recipe's corpus at an existing version."""
    from rasterloom.versions.corpus import Corpus  # heavy
    from rasterloom.versions.refs import check_ref  # heavy

    corpus = Corpus.of(load_recipe(recipe))
    corpus = replace(corpus, ref=at) if at else corpus
    check_ref(corpus)
    return corpus


def result_lines(files: dict[str, str]) -> list[str]:
    """Lines that name the files of a result."""
    return [f"{name}: {path}" for name, path in files.items()]


def plan_table(planned: "Iterable[Planned]") -> Table:
    """Table of steps: whether each would run, and why."""
    table = Table("step", "", "why", box=None, pad_edge=False)
    for p in planned:
        table.add_row(p.step.name, run_or_skip(p.runs), p.status.reason)
    return table


EMA = "Average of the stage's weights (train.ema), {}."
AT_STEP = (
    "Checkpoint in the middle of the stage: its optimizer step, or latest. Without --stage: of the last "
    "stage that has checkpoints."
)


class SafeConsole(Console):
    """Console of all commands: a string is text, never markup, and safe to show.

    Markup is for texts of the program itself: ``markup=True``, with no part of it from outside.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, **options)

    @property
    def is_terminal(self) -> bool:
        """True where the cursor can be moved.

        FORCE_COLOR, which CI sets, makes rich take a pipe for a terminal. A notebook gives ``!rasterloom``
        a terminal that only colours; its kernel has JPY_PARENT_PID, and so have the kernel's children.
        """
        if self._force_terminal:
            return True
        return super().is_terminal and self.file.isatty() and "JPY_PARENT_PID" not in os.environ

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string before rich measures it."""
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

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.", callback=note)]

Place = Annotated[
    str,
    typer.Argument(
        metavar="PLACE", help="A list of URLs, a folder of images, a tar, a data set: path, s3:// or hf://."
    ),
]
UrlColumn = Annotated[
    str, typer.Option("--url", metavar="COLUMN", help="Column with the URLs. Default: by name and content.")
]
CaptionColumn = Annotated[
    str,
    typer.Option(
        "--caption",
        metavar="COLUMN",
        help="Column with the captions; none: images without captions. Default: by name and content.",
    ),
]


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


AsFormat = Annotated[OutputFormat, typer.Option("--format", help="Table to read, or JSON lines.")]

AtVersion = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="VERSION", help="Branch, tag or snapshot. Default: the recipe's own version."
    ),
]

Until = Annotated[
    str | None,
    typer.Option(metavar="STEP", help="Stop after this step, such as selection, tokens or tokens/512."),
]

Retry = Annotated[
    str,
    typer.Option(
        metavar="CLASSES", help="Fetch failed pairs of these classes again first: timeout,http_5xx."
    ),
]

RetryCaptions = Annotated[
    str,
    typer.Option(
        metavar="CLASSES", help="Ask for failed captions of these classes again first: bad_answer,timeout."
    ),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


LogAs = Annotated[
    LogFormat, typer.Option("--log", help="Format of progress: text, or one JSON object a line.")
]


def run_or_skip(runs: bool) -> Text:
    return Text("run", style="bold") if runs else Text("skip", style="dim")


def print_json(value: Any) -> None:
    """Print an object as one line of JSON, with secrets masked."""
    print(as_json(value))


def progress_on(console: Console, quiet: bool, log: LogFormat) -> "Progress":
    """Progress reporter of a long command."""
    from rasterloom.pipelines.progress.reporter import Progress  # heavy

    return Progress(
        SafeConsole(quiet=True) if quiet else console, as_json=log is LogFormat.JSON and not quiet
    )


def result(log: LogFormat, lines: list[str], **facts: Any) -> None:
    """Print a command's result: lines, or one JSON object of the facts."""
    if log is LogFormat.JSON:
        print_json({"event": "result", **facts})
        return
    for line in lines:
        out.print(line, highlight=False)
