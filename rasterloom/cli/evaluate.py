"""The command ``evaluate``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rasterloom.cli.options import (
    AT_STEP,
    EMA,
    AsFormat,
    OutputFormat,
    RecipePath,
    err,
    load_recipe,
    out,
    print_json,
)
from rasterloom.utils.redact import as_json, safe

if TYPE_CHECKING:
    from rasterloom.pipelines.models.evaluate import Evaluation, EvaluationRequest
    from rasterloom.pipelines.workflow import Workflow


Stages = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Stage to measure, from 1; may be given again. Default: the last finished one."),
]
Steps = Annotated[
    list[str] | None,
    typer.Option(metavar="N|latest", help=f"{AT_STEP} May be given again, of one stage."),
]
Averages = Annotated[bool, typer.Option("--ema", help=EMA.format("measured beside them"))]
Models = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Checkpoint to measure as well; may be given again."),
]
Target = Annotated[
    int | None, typer.Option(help="Resolution of the tokens to measure on. Default: the last checkpoint's.")
]
Images = Annotated[
    int,
    typer.Option("--pictures", min=0, help="Number of held-out images for codec and CLIP metrics."),
]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="CLIP in transformers' format. Default: that of the recipe's score clip."
    ),
]
Save = Annotated[
    Path | None, typer.Option("--out", metavar="FILE.json", help="Save the metrics to this file too.")
]


def evaluate_command(
    recipe: RecipePath,
    stage: Stages = None,
    step: Steps = None,
    average: Averages = False,
    model: Models = None,
    target: Target = None,
    images: Images = 64,
    clip: Clip = None,
    save: Save = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Measure checkpoints, side by side, on held-out rows.

    Held-out loss in all, by task and by bucket; reconstruction quality of
    the codec on held-out images (PSNR, SSIM); and, where CLIP's weights are
    available, how well generated images fit their captions (CLIP score) and
    their distance from the held-out ones (CLIP-FD: FID's distance, of CLIP's
    image embeddings). Metrics of stages are kept, and shown in the report.
    """
    from rasterloom.pipelines.models import evaluate  # heavy
    from rasterloom.pipelines.models.load import choices_of  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy

    loaded = load_recipe(recipe)
    choices = choices_of(stage or (), step or (), model or (), averages=average)
    found, report = _evaluate(Workflow(loaded), evaluate.EvaluationRequest(choices, target, images, clip))
    if save:
        save.write_text(as_json(asdict(found), indent=None if output is OutputFormat.JSON else 1))
    if output is OutputFormat.JSON:
        print_json(asdict(found))
        return
    out.print(_table(found))
    for note in found.notes:
        out.print(note, highlight=False)
    if report:
        out.print(f"report: {report}", highlight=False)


def _evaluate(workflow: "Workflow", request: "EvaluationRequest") -> "tuple[Evaluation, str | None]":
    """Metrics of the checkpoints, and the report's path if there is one."""
    from rasterloom.pipelines.models import evaluate  # heavy
    from rasterloom.pipelines.progress.reporter import Progress  # heavy

    progress = Progress(err)
    with progress.showing():
        models, found = evaluate.measure(workflow, request, progress)
    return found, evaluate.keep(workflow, models, found)


def _table(found: "Evaluation") -> Table:
    """Table of metrics, a row each, with a column for each checkpoint."""
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
        real = f"{found.clip_of_heldout:.4g} of the held-out images; {found.drawn:,} generated"
        add("CLIP score", [c.clip for c in found.checkpoints], real)
        add("CLIP-FD", [c.clip_fd for c in found.checkpoints], f"{found.clip_dimensions} dimensions")
    if found.codec:
        quality = f"{found.codec.psnr:.2f} dB PSNR, {found.codec.ssim:.3f} SSIM"
        table.add_row("codec", *[""] * len(columns), f"{quality} of {found.codec.pictures:,} images")
    return table
