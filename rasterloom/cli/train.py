"""The command that trains the stages of a recipe, or says what they would take."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from rasterloom.cli.options import (
    AsFormat,
    LogAs,
    LogFormat,
    OutputFormat,
    Quiet,
    RecipePath,
    out,
    print_json,
    progress_on,
    result,
)
from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.schema import StepKind
from rasterloom.storage.layout import MODEL
from rasterloom.utils.redact import safe

SHOWN = 8  # buckets
EVEN = 0.985  # of useful tokens: what ranks of many rows reach
GIB = 2**30


def train_command(
    recipe: RecipePath,
    stage: Annotated[str, typer.Option(metavar="N|all", help="Which stage, from 1; all of them.")] = "all",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what each stage would take, and do nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from a checkpoint, and fail if there is none.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what the stages have so far, and start them over.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --fresh deletes.")] = False,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU's peak that is assumed for --dry-run.")
    ] = 0.4,
    usd_per_gpu_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Price of a GPU for an hour, for --dry-run; else run.price.gpu."),
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Train the stages of a recipe that are not done yet.

    What a stage needs is made first: the tokens, and the stages before it.
    Stop it whenever you like: the same command goes on from the last good
    checkpoint. --resume insists that there is one, --fresh starts over.
    """
    from rasterloom.pipelines.models.forecast import forecast
    from rasterloom.pipelines.models.train import start_over, train, unfinished
    from rasterloom.pipelines.workflow import Workflow

    loaded = load_recipe(recipe)
    if resume and fresh:
        raise RecipeError("--resume goes on and --fresh starts over: give one of them")
    workflow = Workflow(loaded)
    if dry_run:
        for one in forecast(workflow, stage, mfu):
            price = loaded.run.price.gpu or None if usd_per_gpu_hour is None else usd_per_gpu_hour
            _tell(one, mfu, price, output)
        return
    progress = progress_on(out, quiet, log)
    if resume:
        for name, checkpoint in unfinished(workflow, stage).items():
            progress.say(f"{name} goes on from {checkpoint}")
    if fresh:
        if not yes and not sys.stdin.isatty():
            raise RecipeError("--fresh deletes: add --yes where nobody can be asked")
        start_over(workflow, stage, lambda text: yes or typer.confirm(safe(text)), progress.say)
    planned = train(workflow, stage, progress)
    ran = sum(p.runs for p in planned)
    models = {p.step.name: _where(workflow.corpus, p.step) for p in planned if p.step.kind is StepKind.TRAIN}
    lines = [] if quiet else [f"{len(planned)} steps, {ran} ran now."]
    lines += [f"{name}: {place}" for name, place in models.items()]
    result(log, lines, steps=len(planned), ran=ran, files=models)


def _where(corpus: Any, step: Any) -> str:
    from rasterloom.pipelines.workspace.status import file_folder

    return str(corpus.store.path(f"{file_folder(corpus, step)}/{MODEL}"))


def _tell(one: Any, mfu: float, usd: float | None, output: OutputFormat) -> None:
    """Print what a stage would take."""
    estimate, memory, hours = one.estimate, one.memory, one.gpu_hours
    if output is OutputFormat.JSON:
        row = {"stage": one.step.name, "done": one.status.done, "missing": list(one.missing)}
        row |= {"workers": one.workers, "takes": asdict(one.takes)}
        if estimate:
            row |= {**asdict(estimate), "memory": asdict(memory), "mfu": mfu, "gpu_hours": hours}
            row |= {"usd": {d: h * usd for d, h in hours.items()}} if usd is not None else {}
        print_json(row)
        return
    out.print(Text.assemble((safe(one.step.name), "bold"), f"  {safe(one.status.reason)}"), highlight=False)
    _line("workers", _workers(one))
    if estimate is None:
        out.print(
            f"  nothing can be said yet: {', '.join(one.missing)} would run first "
            "(rasterloom run RECIPE --until tokens)",
            highlight=False,
        )
        return
    _line("rows", f"{estimate.rows:,}, and {estimate.held:,} held out")
    _line("tokens", f"{estimate.tokens:,}, {estimate.epochs:.2f} times {estimate.epoch_tokens:,}")
    _line("steps", f"{estimate.steps:,}, {estimate.tokens / estimate.steps:,.0f} tokens each")
    parts = f"{estimate.micro_batches} micro-batches" if estimate.micro_batches > 1 else "all at once"
    _line("a worker", f"at most {estimate.rank_tokens:,} tokens at once, {parts}")
    uneven = estimate.useful_share < EVEN and one.step.config.stage.rows_multiple == 1
    way_out = "; the stage's rows_multiple evens it out (docs/training.md, Plan)" if uneven else ""
    _line("useful", f"{estimate.useful_share:.1%} of the tokens that fit the slowest worker's time{way_out}")
    _line(
        "memory",
        f"about {memory.total / GIB:,.2f} GiB a worker: {memory.states / GIB:,.2f} weights, gradients and "
        f"optimizer, {memory.activations / GIB:,.2f} activations, "
        f"{(memory.loss + memory.buckets) / GIB:,.2f} loss and buckets",
    )
    if memory.host:
        _line("", f"and {memory.host / GIB:,.2f} GiB beside the GPU, offloaded")
    if memory.trained < memory.params:
        _line("trained", f"{memory.trained:,} of {memory.params:,} parameters")
    for name, found in (("tasks", estimate.by_task), ("buckets", estimate.by_bucket)):
        shown = [f"{of} {tokens:,}" for of, tokens in list(found.items())[:SHOWN]]
        more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        _line(name, ", ".join(shown) + more)
    _line("FLOPs", f"{estimate.flops:.3g}")
    from rasterloom.pipelines.models.forecast import hours_text

    each = (f"{hours_text(h)} of {device}{_price(h, usd)}" for device, h in hours.items())
    _line("GPUs", f"{', '.join(each)}, at {mfu:.0%} MFU")


def _workers(one: Any) -> str:
    """How many, and what each takes of its node."""
    from rasterloom.pipelines.execution.nodes import in_words, of_kind

    fewest, most = one.workers
    many = f"{most}" if fewest == most else f"{fewest} to {most}"
    needs = in_words({**one.takes.needs, **of_kind(one.takes.accelerator)})
    return f"{many} of {needs} each, {one.takes.placement} (run.train_workers, run.steps)"


def _line(name: str, text: str) -> None:
    out.print(f"  {name:<8}  {text}", highlight=False)


def _price(hours: float, usd: float | None) -> str:
    return "" if usd is None else f" ({hours * usd:,.2f} USD)"
