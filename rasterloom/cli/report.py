"""The commands ``report`` and ``embeddings``."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import (
    LogFormat,
    RecipePath,
    load_recipe,
    out,
    progress_on,
    result_lines,
)


def embeddings_command(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Of all images, not only selected ones.")] = False,
) -> None:
    """Export CLIP embeddings in clip-retrieval's layout: img_emb, text_emb and metadata."""
    from rasterloom.pipelines.import_export.export_embeddings import export  # heavy

    rows = export(load_recipe(recipe), folder, everything)
    out.print(f"{rows:,} embeddings: {folder}", highlight=False)


def report_command(
    recipe: RecipePath,
    compare: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Tag, branch or snapshot; another recipe; or a trained stage."),
    ] = None,
    page: Annotated[Path, typer.Option("--out", help="File for the comparison.")] = Path("compare.html"),
) -> None:
    """Update the report and print its path, or compare with OTHER.

    The steps before it that are not done yet are run first, training
    included; without a report, `serve` shows what is there.

    --compare writes one page with OTHER as A and the recipe's present
    results as B: figures, funnel, overlaid curves, sampled images,
    settings and rows that differ. OTHER is v1, other.yaml, or the
    fingerprint of a trained stage (`versions lineage RECIPE train/1-64`
    shows it).
    """
    loaded = load_recipe(recipe)
    if compare is not None:
        from rasterloom.pipelines.inspection.comparison import compare_with  # heavy

        with out.status("comparing") as status:
            compare_with(loaded, compare, page, status.update, recipe)
        out.print(f"comparison: {page}", highlight=False)
        return
    from rasterloom.pipelines.run import result_files, run  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy

    workflow = Workflow(loaded)
    run(workflow, "report", progress_on(out, quiet=False, log=LogFormat.TEXT))
    out.print("\n".join(result_lines(result_files(workflow, "report", here=True))), highlight=False)
