"""The command ``train``."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rasterloom.cli.options import (
    AsFormat,
    LogAs,
    LogFormat,
    OutputFormat,
    Quiet,
    RecipePath,
    load_recipe,
    out,
    print_json,
    progress_on,
    result,
)
from rasterloom.errors import RecipeError
from rasterloom.utils.redact import safe

if TYPE_CHECKING:
    from rasterloom.pipelines.models.forecast import Forecast
    from rasterloom.pipelines.step import HasResult
    from rasterloom.pipelines.workflow import Workflow
    from rasterloom.train.estimate.cost import Estimate
    from rasterloom.train.estimate.memory import Memory
    from rasterloom.versions.corpus import Corpus

SHOWN = 8  # buckets
EVEN = 0.985  # of useful tokens: what many rows reach
GIB = 2**30

Stage = Annotated[str, typer.Option(metavar="N|all", help="Stage to train, from 1, or all of them.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the forecast of each stage, and change nothing.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from a checkpoint, and fail if there is none.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete the results of the stages, and start them over.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before --fresh deletes.")]
Mfu = Annotated[
    float | None,
    typer.Option(
        min=0.01, max=1, help="Model FLOPs utilization that --dry-run assumes. Default: by GPU and remat."
    ),
]
Usd = Annotated[
    float | None, typer.Option(min=0, help="Price of a GPU hour for --dry-run. Default: run.price.gpu.")
]


def train_command(
    recipe: RecipePath,
    stage: Stage = "all",
    dry_run: DryRun = False,
    resume: Resume = False,
    fresh: Fresh = False,
    yes: Yes = False,
    mfu: Mfu = None,
    usd_per_gpu_hour: Usd = None,
    output: AsFormat = OutputFormat.TABLE,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Train the stages of a recipe that are not done yet.

    Steps that a stage depends on run first: tokens, and earlier stages.
    It can be stopped at any time: the same command continues from the last
    good checkpoint. --resume requires one, --fresh starts over.
    """
    from rasterloom.pipelines.models.train import check_unfinished, start_over, train  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy
    from rasterloom.schema import StepKind  # heavy

    loaded = load_recipe(recipe)
    if resume and fresh:
        raise RecipeError("--resume continues and --fresh starts over: give one of them")
    workflow = Workflow(loaded)
    if dry_run:
        _dry_run(workflow, stage, mfu, usd_per_gpu_hour, output)
        return
    progress = progress_on(out, quiet, log)
    if resume:
        check_unfinished(workflow, stage)
    if fresh:
        if not yes and not sys.stdin.isatty():
            raise RecipeError("--fresh deletes: add --yes where nobody can be asked")
        start_over(workflow, stage, lambda text: yes or typer.confirm(safe(text)), progress.say)
    planned = train(workflow, stage, progress)
    ran = sum(p.runs for p in planned)
    stages = [p.step for p in planned if p.step.kind is StepKind.TRAIN]
    models = {step.name: _model_path(workflow.corpus, step) for step in stages}
    lines = [] if quiet else [f"{len(planned)} steps, {ran} ran now."]
    lines += [f"{name}: {place}" for name, place in models.items()]
    result(log, lines, steps=len(planned), ran=ran, files=models)


def _model_path(corpus: "Corpus", step: "HasResult") -> str:
    from rasterloom.pipelines.workspace.status import file_folder  # heavy
    from rasterloom.storage.layout import MODEL  # heavy

    return str(corpus.store.path(f"{file_folder(corpus, step)}/{MODEL}"))


def _dry_run(
    workflow: "Workflow", stage: str, mfu: float | None, usd: float | None, output: OutputFormat
) -> None:
    from rasterloom.pipelines.models.forecast import forecast  # heavy

    price = (workflow.recipe.run.price.gpu or None) if usd is None else usd
    for one in forecast(workflow, stage, mfu):
        if output is OutputFormat.JSON:
            print_json(_facts(one, price))
        else:
            _show(one, price)
            _show_limit(one, price, workflow.recipe.run.max_usd)


def _facts(one: "Forecast", usd: float | None) -> dict[str, object]:
    row: dict[str, object] = {
        "stage": one.step.name,
        "done": one.status.done,
        "missing": list(one.missing),
        "workers": one.workers,
        "takes": asdict(one.takes),
    }
    if one.estimate:
        row |= {**asdict(one.estimate), "gpu_hours": one.gpu_hours}
        row |= {"usd": {d: h * usd for d, h in one.gpu_hours.items()}} if usd is not None else {}
    if one.memory:
        row |= {"memory": asdict(one.memory), "longest": one.longest, "bytes_sent": one.sent}
        row["tokens_per_s"] = one.tokens_per_s
        row["fits"] = [
            {"gpu": found.gpu, "fits": found.is_there, "remat": found.train.model.recomputed}
            | {"operators": found.train.model.operators}
            | {"micro_batch_tokens": found.train.tokens_at_once, "memory": found.memory.total}
            | {"ways_out": found.ways_out}
            for found in one.fits
        ]
        row |= {"paces": {device: asdict(pace) for device, pace in one.paces.items()}}
    return row


def _show(one: "Forecast", usd: float | None) -> None:
    from rasterloom.pipelines.models.forecast import assumption, hours_text  # heavy

    out.print(Text.assemble((safe(one.step.name), "bold"), f"  {safe(one.status.reason)}"), highlight=False)
    _line("workers", _workers(one))
    if one.estimate is None:
        missing = ", ".join(one.missing)
        _line("rows", f"no forecast yet: {missing} would run first (rasterloom run RECIPE --until tokens)")
        _line("tokens", f"each sequence is taken as an image of {one.longest:,}, without its prompt")
    else:
        _show_data(one, one.estimate)
    if one.memory is not None:
        _show_memory(one.memory)
    _show_fits(one)
    _line("network", f"{one.sent / GIB:,.2f} GiB sent by a worker in each step")
    if one.estimate is not None:
        for name, found in (("tasks", one.estimate.by_task), ("buckets", one.estimate.by_bucket)):
            shown = [f"{of} {tokens:,}" for of, tokens in list(found.items())[:SHOWN]]
            more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            _line(name, ", ".join(shown) + more)
        _line("FLOPs", f"{one.estimate.flops:.3g}")
    rates = ", ".join(f"{rate:,.0f} on one {device}" for device, rate in one.tokens_per_s.items())
    _line("tokens/s", f"{rates}, {assumption(one.paces)}; waits for the network not included")
    if one.estimate is not None:
        each = (f"{hours_text(h)} of {device}{_price(h, usd)}" for device, h in one.gpu_hours.items())
        _line("GPUs", f"{', '.join(each)} at that pace")


def _show_limit(one: "Forecast", usd: float | None, most: float | None) -> None:
    """Name the GPUs on which a stage costs too much."""
    if most is None or usd is None:
        return
    over = ", ".join(device for device, hours in one.gpu_hours.items() if hours * usd > most)
    if over:
        _line("limit", f"more than run.max_usd ({most:,.2f} USD) on {over}: runs stop there, and continue")


def _show_data(one: "Forecast", estimate: "Estimate") -> None:
    from rasterloom.pipelines.training.stage_step import TrainAt  # heavy

    _line("rows", f"{estimate.rows:,}, and {estimate.held:,} held out")
    _line("tokens", f"{estimate.tokens:,}, {estimate.epochs:.2f} times {estimate.epoch_tokens:,}")
    _line("steps", f"{estimate.steps:,}, {estimate.tokens / estimate.steps:,.0f} tokens each")
    parts = f"{estimate.micro_batches} micro-batches" if estimate.micro_batches > 1 else "all at once"
    _line("a worker", f"at most {estimate.rank_tokens:,} tokens at once, {parts}")
    config = one.step.config
    assert isinstance(config, TrainAt)
    uneven = estimate.useful_share < EVEN and config.stage.rows_multiple == 1
    way_out = "; the stage's rows_multiple evens it out (docs/training.md, Plan)" if uneven else ""
    _line("useful", f"{estimate.useful_share:.1%} of the tokens that fit the slowest worker's time{way_out}")


def _show_memory(memory: "Memory") -> None:
    _line(
        "memory",
        f"about {memory.total / GIB:,.2f} GiB a worker: {memory.states / GIB:,.2f} weights, gradients and "
        f"optimizer, {memory.activations / GIB:,.2f} activations, "
        f"{(memory.loss + memory.buckets) / GIB:,.2f} loss and buckets",
    )
    if memory.host:
        _line("", f"and {memory.host / GIB:,.2f} GiB beside the GPU, offloaded")
    if memory.average:
        _line("", f"and {memory.average / GIB:,.2f} GiB beside the GPU, of the average of the weights")
    if memory.trained < memory.params:
        _line("trained", f"{memory.trained:,} of {memory.params:,} parameters")


def _show_fits(one: "Forecast") -> None:
    from rasterloom.train.estimate.fit import cannot_fit, in_words  # heavy

    for found in one.fits:
        _line(
            "fits" if found.is_there else "too big", in_words(found) if found.is_there else cannot_fit(found)
        )
    if one.takes.gpus and not one.fits:
        _line("fits", "unknown: run.steps.train.accelerator names no GPU whose memory is known")


def _workers(one: "Forecast") -> str:
    """Number of workers, and the resources of each."""
    from rasterloom.pipelines.execution.nodes import in_words, of_kind  # heavy

    fewest, most = one.workers
    many = f"{most}" if fewest == most else f"{fewest} to {most}"
    needs = in_words({**one.takes.needs, **of_kind(one.takes.accelerator)})
    return f"{many} of {needs} each, {one.takes.placement} (run.train_workers, run.steps)"


def _line(name: str, text: str) -> None:
    out.print(f"  {name:<8}  {text}", highlight=False)


def _price(hours: float, usd: float | None) -> str:
    return "" if usd is None else f" ({hours * usd:,.2f} USD)"
