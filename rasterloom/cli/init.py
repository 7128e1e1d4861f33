"""The command ``init``."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import CaptionColumn, Place, UrlColumn, out
from rasterloom.utils.redact import PAGE, safe


def init_command(
    place: Place,
    file: Annotated[
        Path, typer.Option("--out", "-o", metavar="RECIPE", help="File to write; it must not exist.")
    ] = Path("recipe.yaml"),
    url: UrlColumn = "",
    caption: CaptionColumn = "",
) -> None:
    """Look at a list, folder or data set; write a starter recipe.

    It prints the kind, the rows, the columns and three examples. Columns are
    recognised by their names and by what the first rows hold. The recipe has
    a comment on each line; nothing else is written or run.
    """
    from rasterloom.pipelines.inspection.starter_recipe import look_at, write_recipe  # heavy

    with out.status("reading"):
        look = look_at(place, url, caption)
    write_recipe(look, file)
    out.print("\n".join(look.lines()), highlight=False)
    until = "" if look.guess.source.has_captions else " --until selection"  # as no caption makes no sequence
    out.print(f"recipe: {safe(file, PAGE)}; next: rasterloom plan {safe(file, PAGE)}{until}", highlight=False)
