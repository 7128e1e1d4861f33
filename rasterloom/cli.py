"""The command line: ``rasterloom`` and ``python -m rasterloom``."""

import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rasterloom import __version__, cli_jobs, cli_sample, cli_tokens, cli_train, cli_versions
from rasterloom.cli_common import (
    AsFormat,
    LogAs,
    LogFormat,
    OutputFormat,
    Quiet,
    RecipePath,
    Retry,
    Until,
    err,
    out,
    print_json,
    progress_on,
    result,
    run_or_skip,
)
from rasterloom.recipe import Recipe, RecipeError, load_recipe
from rasterloom.utils.redact import PAGE, safe

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="From a list of image-text pairs to a trained autoregressive image model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_versions.app, name="versions")
app.add_typer(cli_tokens.app, name="tokens")
app.add_typer(cli_jobs.app, name="jobs")
app.command("submit")(cli_jobs.submit_command)
app.command("tokenize")(cli_tokens.tokenize_command)
app.command("train")(cli_train.train_command)
app.command("sample")(cli_sample.sample_command)
app.command("evaluate")(cli_sample.evaluate_command)


class GroupBy(StrEnum):
    REASON = "reason"
    HOST = "host"


@app.command("run")
def run_command(
    recipe: RecipePath,
    until: Until = None,
    retry: Retry = "",
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Run the steps of a recipe that are not done yet.

    Stop it whenever you like: what is finished stays, and the next run goes on from there.
    """
    from rasterloom.pipelines.run import result_files, run
    from rasterloom.pipelines.submit import check_job

    loaded = load_recipe(recipe)
    check_job(loaded)
    planned = run(loaded, until, progress_on(out, quiet, log), retry)
    ran = sum(p.runs for p in planned)
    lines = [] if quiet else [f"{len(planned)} steps, {ran} ran now, {len(planned) - ran} were done before."]
    found = result_files(loaded, planned[-1].step.name)
    result(log, [*lines, *_places(found)], steps=len(planned), ran=ran, files=found)


@app.command("plan")
def plan_command(recipe: RecipePath, until: Until = None, output: AsFormat = OutputFormat.TABLE) -> None:
    """Say which steps would run, and why; of training, what it would take. Nothing is changed."""
    from rasterloom.pipelines.run import plan
    from rasterloom.pipelines.train_plan import MFU, in_short

    loaded = load_recipe(recipe)
    planned = plan(loaded, until)
    if output is OutputFormat.JSON:
        for p in planned:
            row = {
                "step": p.step.name,
                "runs": p.runs,
                "reason": p.status.reason,
                "fingerprint": p.step.fingerprint,
            }
            print_json(row)
        return
    table = Table("step", "", "why", box=None, pad_edge=False)
    for p in planned:
        table.add_row(p.step.name, run_or_skip(p.runs), p.status.reason)
    out.print(table)
    out.print(f"{sum(p.runs for p in planned)} of {len(planned)} steps would run.")
    for p in planned:
        if p.runs and p.step.name.startswith("train/") and (line := in_short(loaded, p.step, MFU)):
            out.print(line, highlight=False)


@app.command("failures")
def failures_command(
    recipe: RecipePath,
    reason: Annotated[str | None, typer.Option(help="List the pairs of one reason or class.")] = None,
    host: Annotated[str | None, typer.Option(help="List the pairs of one host.")] = None,
    by: Annotated[GroupBy, typer.Option(help="Sum up by reason or by host.")] = GroupBy.REASON,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Show what did not make it into the corpus: by class, by host, and pair by pair."""
    from rasterloom.pipelines.failures import failures, summary

    loaded = load_recipe(recipe)
    if output is OutputFormat.JSON:
        for f in failures(loaded, reason, host):
            print_json(f.__dict__)
        return
    if reason is None and host is None:
        groups = summary(loaded, by)
        other = "most from" if by is GroupBy.REASON else "mostly"
        table = Table(by.value, "pairs", other, "for example", box=None, pad_edge=False)
        for g in groups[:limit]:
            example = f"{safe(g.url or '(no URL)')}  {safe(g.detail)}"
            table.add_row(safe(g.name or "(none)"), f"{g.pairs:,}", safe(g.mostly), example)
        out.print(table)
        if len(groups) > limit:
            out.print(f"{limit} of {len(groups):,}; --limit shows more.")
        out.print("--reason and --host list the pairs." if groups else "Nothing failed.", highlight=False)
        return
    found = failures(loaded, reason, host, limit + 1)
    for f in found[:limit]:
        told = (f.key, f.reason, f.url or "(no URL)", f.detail)
        out.print("  ".join(map(safe, told)), highlight=False)
    more = "; there are more, --limit shows them" if len(found) > limit else ""
    out.print(f"{min(limit, len(found))} pairs{more}.")


@app.command("explain")
def explain_command(
    recipe: RecipePath,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of the pair, or its first digits.")],
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Tell one image's story: where it came from, its scores, what the rule says, what it doubles."""
    from rasterloom.pipelines.explain import explain

    chapters = explain(load_recipe(recipe), key)
    if output is OutputFormat.JSON:
        print_json({c.title: dict(c.lines) for c in chapters})
        return
    for chapter in chapters:
        out.print(chapter.title, style="bold")
        for name, value in chapter.lines:
            out.print(f"  {safe(name)}: {safe(value)}", highlight=False)


@app.command("keep")
def keep_command(
    recipe: RecipePath,
    rule: Annotated[str, typer.Option("--try", metavar="RULE", help="A keep rule to compare.")],
    page: Annotated[Path, typer.Option("--out", help="File for a gallery of what would change.")] = Path(
        "keep-try.html"
    ),
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Show what another keep rule would change. Nothing is run, and no version is made."""
    from rasterloom.pipelines.try_rule import try_rule

    tried = try_rule(load_recipe(recipe), rule, page)
    if output is OutputFormat.JSON:
        changes = [change.__dict__ for change in tried.changes]
        print_json({**tried.trial.__dict__, "changes": changes, "reasons": tried.reasons})
        return
    table = Table("reason", "now", "then", "", box=None, pad_edge=False)
    for name, (now, then) in sorted(tried.reasons.items(), key=lambda item: -max(item[1])):
        table.add_row(safe(name), f"{now:,}", f"{then:,}", f"{then - now:+,}" if then != now else "")
    out.print(table, highlight=False)
    trial = tried.trial
    out.print(
        f"Kept {trial.kept_before:,} now, {trial.kept_after:,} then: {trial.newly_kept:,} newly kept, "
        f"{trial.newly_dropped:,} newly dropped.",
        highlight=False,
    )
    for change in tried.changes:
        word = "newly kept, was" if change.kept else "newly dropped,"
        out.print(f"  {change.rows:,} {word} {safe(change.reason)}", highlight=False)
    out.print(f"gallery: {page}", highlight=False)


@app.command("embeddings")
def embeddings_command(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Not only what is kept.")] = False,
) -> None:
    """Write kept CLIP embeddings in clip-retrieval's layout: img_emb, text_emb and metadata."""
    from rasterloom.pipelines.embeddings import export

    rows = export(load_recipe(recipe), folder, everything)
    out.print(f"{rows:,} embeddings: {folder}", highlight=False)


@app.command("report")
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
        from rasterloom.pipelines.sides import compare_with

        with out.status("comparing") as status:
            compare_with(loaded, compare, page, status.update)
        out.print(f"comparison: {page}", highlight=False)
        return
    from rasterloom.pipelines.run import run

    run(loaded, "report", progress_on(out, quiet=False, log=LogFormat.TEXT))
    out.print(where(loaded, "report", here=True), highlight=False)


@app.command("doctor")
def doctor_command(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]")] = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a Ray cluster to ask.", envvar="RAY_API_SERVER_ADDRESS")
    ] = None,
) -> None:
    """Check that this machine, a recipe's workspace and a cluster have what Rasterloom needs."""
    from rasterloom.pipelines.doctor import examine

    findings = examine(load_recipe(recipe) if recipe else None, address)
    for finding in findings:
        sign = ("ok   ", "green") if finding.ok else ("bad  ", "red")
        out.print(Text.assemble(sign, " ".join(safe(finding.what, PAGE).split())), highlight=False)
    bad = sum(not finding.ok for finding in findings)
    if bad:
        out.print(f"{bad} of {len(findings)} bad.")
        raise typer.Exit(FAILED)


def where(recipe: Recipe, last: str, here: bool = False) -> str:
    """The lines that say where the results of a run lie; what is on S3 is brought ``here`` if asked."""
    from rasterloom.pipelines.run import result_files

    return "\n".join(_places(result_files(recipe, last, here)))


def _places(files: dict[str, str]) -> list[str]:
    return [f"{name}: {path}" for name, path in files.items()]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    from pyiceberg.exceptions import CommitFailedException, RESTError

    from rasterloom.errors import VersionError
    from rasterloom.storage.store import StorageError

    try:
        code: Any = app(standalone_mode=False)
    except (RecipeError, VersionError) as error:
        err.print(str(error), highlight=False, style="red")
        sys.exit(WRONG_USE)
    except typer.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        from rasterloom.pipelines.runner import StepFailed

        usage = getattr(error, "exit_code", None)
        if usage == WRONG_USE:  # click's own words on wrong options
            said = error.format_message() if hasattr(error, "format_message") else str(error)
            err.print(f"{said}  (--help says more)", style="red")
            sys.exit(WRONG_USE)
        if isinstance(error, StepFailed | StorageError | CommitFailedException | RESTError | OSError):
            err.print(" ".join(str(error).split()), highlight=False, style="red")
            sys.exit(FAILED)
        err.print(traceback.format_exc(), end="", highlight=False)
        sys.exit(FAILED)
    if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        err.print("Stopped. What was finished is kept; run the same command to go on.")
    sys.exit(code if isinstance(code, int) else 0)
