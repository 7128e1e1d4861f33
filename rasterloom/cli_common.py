"""What the commands share: arguments, and where they print."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
