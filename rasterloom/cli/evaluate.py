"""The command ``evaluate``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rasterloom.cli.options import AT_STEP, AsFormat, OutputFormat, RecipePath, err, out, print_json
from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.utils.redact import as_json, safe


def evaluate_command(
    recipe: RecipePath,
    stage: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Stage to measure, from 1; may be given again. Default: the last that is done."
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="N|latest", help=f"{AT_STEP} May be given again, of one stage."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A checkpoint to measure beside; may be given again."),
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Measure on tokens of this resolution. Default: the last checkpoint's.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Held-out pictures for the codec's figures and for CLIP's.")
    ] = 64,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A CLIP of transformers. Default: that of the recipe's score clip."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Save the figures here too.")
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Measure checkpoints, side by side, on what was held out of training.

    Held-out loss in all, by task and by bucket; what the codec keeps of the
    held-out pictures (PSNR, SSIM); and, where CLIP's weights are at hand,
    how well drawn pictures fit their captions (CLIP score) and how far they
    lie from the held-out ones (CLIP-FD: FID's distance, of CLIP's image
    embeddings). Figures of stages are kept, and stand in the report.
    """
    from rasterloom.pipelines.models import evaluate
    from rasterloom.pipelines.models.load import codec_or_none, language_of, model_at, trained_at, trained_of
    from rasterloom.pipelines.progress.reporter import Progress
    from rasterloom.pipelines.workflow import Workflow

    loaded = load_recipe(recipe)
    stages = stage or []
    if step and len(stages) > 1:
        raise RecipeError("--step takes the checkpoints of one stage: give one --stage")
    clip_model = evaluate.clip_of(loaded, clip)
    workflow = Workflow(loaded)
    language = language_of(workflow)
    if step:
        number = stages[0] if stages else None
        checkpoints = [trained_at(workflow, number, one, language) for one in step]
    else:
        checkpoints = [trained_of(workflow, number) for number in stages]
        checkpoints += [] if stages or model else [trained_of(workflow)]
    checkpoints += [model_at(workflow, folder, language) for folder in model or ()]
    codec = codec_or_none(loaded)
    progress = Progress(err)
    with progress.showing():
        held = evaluate.held_out(workflow, target or checkpoints[-1].target, language, codec, pictures)
        found = evaluate.evaluate(loaded, checkpoints, language, codec, held, clip_model, progress)
    if save:
        save.write_text(as_json(asdict(found), indent=None if output is OutputFormat.JSON else 1))
    report = evaluate.keep(workflow, checkpoints, found)
    if output is OutputFormat.JSON:
        print_json(asdict(found))
        return
    out.print(_table(found))
    for note in found.notes:
        out.print(note, highlight=False)
    if report:
        out.print(f"report: {report}", highlight=False)


def _table(found: Any) -> Table:
    """A line a figure, a column a checkpoint."""
    table = Table(
        f"held out of {found.target}",
        *(safe(c.name) for c in found.checkpoints),
        "",
        box=None,
        pad_edge=False,
    )
    columns = [c.heldout for c in found.checkpoints]

    def add(name: str, values: list[float | None], note: str = "") -> None:
        table.add_row(safe(name), *("-" if v is None else f"{v:.4g}" for v in values), note)

    whole = columns[0]["all"]
    add("loss", [c["all"]["loss"] for c in columns], f"{whole['rows']:,} rows, {whole['tokens']:,} tokens")
    for kind in ("tasks", "buckets"):
        for name, first in columns[0][kind].items():
            add(f"  {name}", [c[kind].get(name, {}).get("loss") for c in columns], f"{first['rows']:,} rows")
    if found.clip_of_heldout is not None:
        real = f"{found.clip_of_heldout:.4g} of the held-out pictures; {found.drawn:,} drawn"
        add("CLIP score", [c.clip for c in found.checkpoints], real)
        add("CLIP-FD", [c.clip_fd for c in found.checkpoints], f"{found.clip_dimensions} dimensions")
    if found.codec:
        told = f"{found.codec.psnr:.2f} dB PSNR, {found.codec.ssim:.3f} SSIM"
        table.add_row("codec", *[""] * len(columns), f"{told} of {found.codec.pictures:,} pictures")
    return table
