"""What the commands share: arguments, and where they print."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rasterloom.pipelines.progress import Progress

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

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


def progress_on(console: Console, quiet: bool, log: LogFormat) -> "Progress":
    """What a long command tells while it works."""
    from rasterloom.pipelines.progress import Progress

    return Progress(Console(quiet=True) if quiet else console, as_json=log is LogFormat.JSON and not quiet)


def result(log: LogFormat, lines: list[str], **facts: Any) -> None:
    """Print what came of a command: lines, or one JSON object with the facts."""
    if log is LogFormat.JSON:
        print(json.dumps({"event": "result", **facts}, ensure_ascii=False))
        return
    for line in lines:
        out.print(line, highlight=False, markup=False)
