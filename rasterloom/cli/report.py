"""The commands ``report`` and ``embeddings``."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import (
    LogFormat,
    RecipePath,
    out,
    progress_on,
    where,
)
from rasterloom.recipe.loader import load_recipe


def embeddings_command(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Not only what is kept.")] = False,
) -> None:
    """Write kept CLIP embeddings in clip-retrieval's layout: img_emb, text_emb and metadata."""
    from rasterloom.pipelines.import_export.export_embeddings import export

    rows = export(load_recipe(recipe), folder, everything)
    out.print(f"{rows:,} embeddings: {folder}", highlight=False)


def report_command(
    recipe: RecipePath,
    compare: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="A tag, branch or snapshot; another recipe; or a trained stage."),
    ] = None,
    page: Annotated[Path, typer.Option("--out", help="File for the comparison.")] = Path("compare.html"),
) -> None:
    """Say where the report lies; write it first if something changed since. Or compare with OTHER.

    --compare writes one page with OTHER as A and the recipe as it stands
    as B: figures, funnel, curves over each other, drawings, settings and
    rows that differ. OTHER is v1, other.yaml, or the fingerprint of a
    stage that was trained (`versions lineage RECIPE train/1-64` tells it).
    """
    loaded = load_recipe(recipe)
    if compare is not None:
        from rasterloom.pipelines.inspection.comparison import compare_with

        with out.status("comparing") as status:
            compare_with(loaded, compare, page, status.update)
        out.print(f"comparison: {page}", highlight=False)
        return
    from rasterloom.pipelines.run import run
    from rasterloom.pipelines.workflow import Workflow

    workflow = Workflow(loaded)
    run(workflow, "report", progress_on(out, quiet=False, log=LogFormat.TEXT))
    out.print(where(workflow, "report", here=True), highlight=False)
