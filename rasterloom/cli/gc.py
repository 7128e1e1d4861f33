"""The command ``versions gc``."""

import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rasterloom.cli.options import AsFormat, OutputFormat, RecipePath, load_recipe, out, print_json
from rasterloom.errors import RecipeError

if TYPE_CHECKING:
    from rasterloom.pipelines.maintenance.gc import Garbage

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 86400}

KINDS = {
    "records": "records of results without a version",
    "results": "their lists of shards",
    "shards": "their shards",
    "data": "data files without a version or shard",
    "folders": "folders of text vocabularies, indexes, samples and reports",
    "models": "trained models",
    "metadata": "metadata of Iceberg",
    "leftovers": "leftovers of killed jobs",
    "uploads": "unfinished uploads to S3",
}


def gc_command(
    recipe: RecipePath,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Versions younger than this stay: 7d, 12h, 30m, 0.")
    ] = "7d",
    files_older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="Files younger than this stay, as a job may just have written them."
        ),
    ] = "24h",
    models: Annotated[
        bool, typer.Option("--models", help="Also models that were trained on removed versions.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Remove versions without a branch or tag, and unreachable files.

    Lists them first, and asks. Files of running jobs stay, and so does
    every file that Rasterloom did not write.
    """
    from rasterloom.pipelines.maintenance.gc import collect, find  # heavy
    from rasterloom.pipelines.maintenance.reachability import Grace  # heavy
    from rasterloom.versions.corpus import Corpus  # heavy

    grace = Grace(_age("--older-than", older_than), _age("--files-older-than", files_older_than))
    corpus = Corpus.of(load_recipe(recipe))
    with out.status("looking for unreachable files"):
        found = find(corpus, grace, models=models)
    _show(found, output)
    if dry_run or not (found.snapshots or found.items):
        return
    if not yes:
        if not sys.stdin.isatty():
            out.print("Nothing was removed: --yes removes it.")
            return
        if not typer.confirm("Remove this?"):
            return
    with out.status("removing") as status:
        gone = collect(
            corpus,
            grace,
            models=models,
            advance=lambda part: lambda done, total: status.update(f"{part}: {done:,} of {total:,}"),
        )
    snapshots, files = sum(gone.snapshots.values()), len(gone.items)
    size = sum(item.size for item in gone.items) / 1e6
    out.print(f"{snapshots:,} snapshots and {files:,} files are gone: {size:,.1f} MB", highlight=False)


def _show(found: "Garbage", output: OutputFormat) -> None:
    kinds = found.by_kind()
    if output is OutputFormat.JSON:
        files = {kind: {"files": number, "bytes": size} for kind, (number, size) in kinds.items()}
        print_json({"snapshots": found.snapshots, **files})
        return
    if not (found.snapshots or found.items):
        out.print("There is nothing to remove.")
        return
    shown = Table("what", "number", "MB", box=None, pad_edge=False)
    for table, number in found.snapshots.items():
        shown.add_row(f"snapshots of {table}", f"{number:,}", "")
    for kind, (number, size) in kinds.items():
        shown.add_row(KINDS[kind], f"{number:,}", f"{size / 1e6:,.1f}")
    out.print(shown, highlight=False)


def _age(option: str, text: str) -> timedelta:
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise RecipeError(f"{option}: got {text}, takes an age such as 7d, 12h, 30m or 0")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
