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
    from collections.abc import Sequence

    from rasterloom.pipelines.models.evaluate import Evaluation, EvaluationRequest
    from rasterloom.pipelines.models.load import ModelChoice
    from rasterloom.pipelines.models.suites import SuiteEvaluation
    from rasterloom.pipelines.workflow import Workflow


Stages = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Stage to measure, from 1; may be repeated. Default: the last finished one."),
]
Steps = Annotated[
    list[str] | None,
    typer.Option(metavar="N|latest", help=f"{AT_STEP} May be repeated, of one stage."),
]
Averages = Annotated[bool, typer.Option("--ema", help=EMA.format("measured beside them"))]
Models = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Checkpoint to measure as well; may be repeated."),
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
SuiteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        metavar="NAME|FILE",
        help="Suite of prompts to draw and judge in place of the held-out metrics, of the recipe's "
        "evaluate.suites, scenes, or a file (docs/judging.md); may be repeated.",
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="NAME", help="Judge of the suites, in place of theirs; may be repeated."),
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
    suite: SuiteNames = None,
    judge: Judges = None,
    save: Save = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Measure checkpoints, side by side, on held-out rows.

    Held-out loss in all, by task and by bucket; reconstruction quality of
    the codec on held-out images (PSNR, SSIM); and, where CLIP's weights are
    available, how well generated images fit their captions (CLIP score) and
    their distance from the held-out ones (CLIP-FD: FID's distance, of CLIP's
    image embeddings). Metrics of stages are kept, and shown in the report.

    With a suite, its prompts are drawn with several seeds each and judged
    instead; a page shows the checkpoints prompt by prompt.
    """
    from rasterloom.pipelines.models import evaluate  # heavy
    from rasterloom.pipelines.models.load import choices_of  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy

    loaded = load_recipe(recipe)
    choices = choices_of(stage or (), step or (), model or (), averages=average)
    if suite or judge:
        _print_suites(_judge(Workflow(loaded), choices, suite or (), judge or ()), save, output)
        return
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


def _judge(
    workflow: "Workflow", choices: "Sequence[ModelChoice]", names: "Sequence[str]", judges: "Sequence[str]"
) -> "list[SuiteEvaluation]":
    """Suites, drawn and judged."""
    from rasterloom.pipelines.models.suites import judge_suites, suites_of  # heavy
    from rasterloom.pipelines.progress.reporter import Progress  # heavy

    suites, progress = suites_of(workflow.recipe, names, judges), Progress(err)
    with progress.showing():
        return judge_suites(workflow, suites, choices, progress)


def _print_suites(found: "list[SuiteEvaluation]", save: Path | None, output: OutputFormat) -> None:
    values = [asdict(one) for one in found]
    if save:
        save.write_text(as_json(values, indent=None if output is OutputFormat.JSON else 1))
    if output is OutputFormat.JSON:
        print_json(values)
        return
    for one in found:
        out.print(_suite_table(one))
        out.print(f"page: {one.page}", highlight=False)


def _suite_table(found: "SuiteEvaluation") -> Table:
    """Table of a suite's figures, with a column for each checkpoint."""
    title = f"{safe(found.suite)}: {found.prompts:,} prompts, {len(found.seeds)} seeds"
    table = Table(title, *(safe(c.name) for c in found.checkpoints), "of", box=None, pad_edge=False)
    columns = [{(f.judge, f.name, f.is_whole): f for f in c.figures} for c in found.checkpoints]
    for judge, name, is_whole in dict.fromkeys(key for column in columns for key in column):
        figures = [column.get((judge, name, is_whole)) for column in columns]
        texts = [figure.text if figure else "-" for figure in figures]
        count = next(figure.count for figure in figures if figure)
        table.add_row(safe(f"{judge}: {name}" if is_whole else f"  {name}"), *texts, f"{count:,}")
    return table


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
