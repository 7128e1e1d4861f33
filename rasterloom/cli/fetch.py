"""The command ``fetch``."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import (
    CaptionColumn,
    LogAs,
    LogFormat,
    Place,
    Quiet,
    Retry,
    UrlColumn,
    out,
    plan_table,
    progress_on,
    result,
)
from rasterloom.pipelines.import_export.export_formats import Form

Folder = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder, or that of an earlier call.")
]
Size = Annotated[
    int | None,
    typer.Option(
        min=32,
        metavar="PIXELS",
        help="Longest side, or what --resize says: larger images are scaled down, smaller ones stay. "
        "Default: 1536.",
    ),
]
ResizeMode = Annotated[
    str,
    typer.Option(
        "--resize",
        metavar="MODE",
        help="keep_ratio_largest (default), keep_ratio (--size is the shortest side), center_crop, border or "
        "none.",
    ),
]
FormOption = Annotated[
    Form, typer.Option("--format", help="Tars, Parquet, Hugging Face dataset, or files (jpg, txt, json).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of fetch or run, such as fetch.deadline_s=10; may be repeated.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan; nothing is written.")]


def fetch_command(
    place: Place,
    folder: Folder,
    size: Size = None,
    resize: ResizeMode = "",
    form: FormOption = Form.WEBDATASET,
    url: UrlColumn = "",
    caption: CaptionColumn = "",
    settings: Settings = None,
    retry: Retry = "",
    dry_run: DryRun = False,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Fetch the images of a list into a folder, without a recipe.

    Every image that can be decoded is kept, with its caption if it has one.
    The same command continues where it was stopped; when all is done it does
    nothing. FOLDER/.rasterloom holds the tables, and a recipe for the other
    commands.
    """
    from rasterloom.pipelines.import_export.fetch_list import LAST, fetch_list, recipe_of  # heavy
    from rasterloom.pipelines.inspection.starter_recipe import look_at  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy

    with out.status("reading"):
        look = look_at(place, url, caption)
    recipe = recipe_of(look, folder, size, settings or (), resize)
    if not quiet and log is LogFormat.TEXT:
        out.print("\n".join(look.lines()), highlight=False)
    if dry_run:
        planned = Workflow(recipe).plan(LAST)
        out.print(plan_table(planned))
        size_of = f"{recipe.fetch.resize} to {recipe.fetch.max_side} pixels"
        out.print(
            f"{sum(p.runs for p in planned)} of {len(planned)} steps would run; {size_of}, {form.value}."
        )
        return
    done = fetch_list(recipe, folder, form, progress_on(out, quiet, log), retry)
    images = "1 image" if done.images == 1 else f"{done.images:,} images"
    lines = [f"{images}: {folder / 'data'} ({form.value})"]
    if not done.is_new:
        lines = [f"Nothing to do: {images} in {folder / 'data'} ({form.value})"]
    if done.failed:
        rows = "1 row" if done.failed == 1 else f"{done.failed:,} rows"
        lines.append(f"{rows} without an image: rasterloom failures {done.recipe}")
    result(
        log,
        lines,
        images=done.images,
        failed=done.failed,
        ran=done.ran,
        exported=done.is_new,
        files={"data": str(folder / "data"), "recipe": str(done.recipe)},
    )
