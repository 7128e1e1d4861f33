"""The commands ``run``, ``plan`` and ``doctor``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rasterloom.cli.options import (
    AsFormat,
    LogAs,
    LogFormat,
    OutputFormat,
    Quiet,
    RecipePath,
    Retry,
    RetryCaptions,
    Until,
    load_recipe,
    note,
    out,
    plan_table,
    print_json,
    progress_on,
    result,
    result_lines,
)
from rasterloom.errors import FAILED
from rasterloom.utils.redact import PAGE, safe


def run_command(
    recipe: RecipePath,
    until: Until = None,
    retry: Retry = "",
    retry_captions: RetryCaptions = "",
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Run the steps of a recipe that are not done yet.

    It can be stopped at any time: finished work is kept, and the next run continues from there.
    """
    from rasterloom.pipelines.cluster.submit import check_job  # heavy
    from rasterloom.pipelines.run import result_files, run  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy

    loaded = load_recipe(recipe)
    check_job(loaded)
    workflow = Workflow(loaded)
    planned = run(workflow, until, progress_on(out, quiet, log), retry, retry_captions)
    ran = sum(p.runs for p in planned)
    lines = [] if quiet else [f"{len(planned)} steps, {ran} ran now, {len(planned) - ran} were done before."]
    found = result_files(workflow, planned[-1].step.name)
    result(log, [*lines, *result_lines(found)], steps=len(planned), ran=ran, files=found)


def plan_command(recipe: RecipePath, until: Until = None, output: AsFormat = OutputFormat.TABLE) -> None:
    """Show the sources, the steps to run and the cost of training. Nothing is changed."""
    from rasterloom.pipelines.corpus.host_limits import limits_text  # heavy
    from rasterloom.pipelines.execution.budget import limit_text  # heavy
    from rasterloom.pipelines.inspection.source_preview import preview  # heavy
    from rasterloom.pipelines.models.forecast import in_short  # heavy
    from rasterloom.pipelines.step import ShardStep  # heavy
    from rasterloom.pipelines.training.preflight import refuse, too_small_here  # heavy
    from rasterloom.pipelines.training.stage_step import is_stage  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy
    from rasterloom.schema import StepKind  # heavy
    from rasterloom.versions.workspace_check import unwritable  # heavy

    workflow = Workflow(load_recipe(recipe))
    planned = workflow.plan(until)
    steps = [p.step for p in planned]
    if output is OutputFormat.JSON:
        for p in planned:
            row = {
                "step": p.step.name,
                "runs": p.runs,
                "reason": p.status.reason,
                "fingerprint": p.step.fingerprint,
            }
            print_json(row)
        refuse(workflow.recipe, steps)
        return
    pairs = next((p.status.record for p in planned if p.step.kind is StepKind.PAIRS and not p.runs), None)
    may_be_many = False
    for p in planned:
        if p.runs and isinstance(p.step, ShardStep) and p.step.kind is StepKind.PAIRS:
            for source in workflow.recipe.sources:
                shown = preview(source)
                out.print("\n".join(shown.lines()), highlight=False)
                may_be_many |= shown.more
    out.print(plan_table(planned))
    out.print(f"{sum(p.runs for p in planned)} of {len(planned)} steps would run.")
    refuse(workflow.recipe, steps)
    for p in planned:
        if p.runs and is_stage(p.step) and (line := in_short(workflow, p.step)):
            out.print(line, highlight=False)
    fetches = any(p.runs and p.step.kind is StepKind.IMAGES for p in planned)
    limits = limits_text(workflow.recipe, pairs.rows if pairs else None, may_be_many) if fetches else ""
    for line in (limits, limit_text(workflow.recipe.run), unwritable(workflow.corpus.store)):
        if line:
            out.print(line, highlight=False)
    for line in too_small_here(workflow.recipe, steps):
        out.print(line, highlight=False)


def doctor_command(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE", help="Recipe to check: sources, training, workspace.", callback=note
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a Ray cluster to check.", envvar="RAY_API_SERVER_ADDRESS")
    ] = None,
) -> None:
    """Check this machine, a recipe's workspace and a cluster."""
    from rasterloom.pipelines.cluster.doctor import examine  # heavy

    findings = examine(load_recipe(recipe) if recipe else None, address)
    for finding in findings:
        sign = ("ok   ", "green") if finding.ok else ("bad  ", "red")
        out.print(Text.assemble(sign, " ".join(safe(finding.what, PAGE).split())), highlight=False)
    bad = sum(not finding.ok for finding in findings)
    if bad:
        out.print(f"{bad} of {len(findings)} bad.")
        raise typer.Exit(FAILED)
