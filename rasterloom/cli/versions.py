"""The commands ``versions ...``."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rasterloom.cli.help import App
from rasterloom.cli.options import (
    AsFormat,
    AtVersion,
    OutputFormat,
    RecipePath,
    apply_pending_takedowns,
    open_corpus,
    out,
    print_json,
)
from rasterloom.errors import FAILED, RecipeError
from rasterloom.utils.redact import LINES, as_json, safe
from rasterloom.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from rasterloom.versions.history import Version

app = App(help="Show, name and compare the versions of a corpus.")

LOG_WIDTH = 180


class Library(StrEnum):
    """Libraries that read the tables."""

    PYICEBERG = "pyiceberg"
    DUCKDB = "duckdb"
    POLARS = "polars"
    RAY = "ray"


Name = Annotated[str, typer.Argument(metavar="NAME", help="A tag or a branch.")]


def _facts(version: "Version") -> dict[str, Any]:
    committed = version.committed.isoformat()
    return {**version.__dict__, "committed": committed, "record": version.record.__dict__}


def _snapshots(found: dict[str, int]) -> str:
    return ", ".join(f"{table} {snapshot}" for table, snapshot in found.items())


def _check_tables(names: list[str]) -> None:
    from rasterloom.versions.corpus import TABLES  # heavy

    for name in names:
        if name not in TABLES:
            message = f"no such table; {did_you_mean(name, TABLES)}"
            raise RecipeError(message, field="table", value=name)


@app.command("log")
def log_command(
    recipe: RecipePath,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """List the versions of a corpus's tables, newest first."""
    from rasterloom.versions.corpus import MAIN  # heavy
    from rasterloom.versions.history import log  # heavy
    from rasterloom.versions.refs import refs  # heavy

    corpus = open_corpus(recipe)
    _check_tables([table] if table else [])
    found = log(corpus, table)
    if output is OutputFormat.JSON:
        for v in found:
            print_json(_facts(v))
        return
    names: dict[int, list[str]] = {}
    for ref in refs(corpus):
        for snapshot in ref.snapshots.values() if ref.name != MAIN else ():
            names.setdefault(snapshot, []).append(ref.name)
    _print_wide(_log_table(found, names))


def _log_table(found: "list[Version]", names: dict[int, list[str]]) -> Table:
    shown = Table(
        "committed", "by", "recipe", "code", "step", "snapshot", "rows", "seconds", "MB", "outcome", "names"
    )
    shown.box, shown.pad_edge = None, False
    for v in found:
        record = v.record
        counts = ", ".join(f"{k} {n:,}" for k, n in sorted(record.counts.items(), key=lambda i: -i[1])[:3])
        why = f"takedown {record.taken_down}: " if record.of_takedown else ""
        shown.add_row(
            Text(f"{v.committed:%Y-%m-%d %H:%M:%S}", style="" if v.current else "dim"),
            safe(record.user),
            record.recipe[:6],
            f"{record.package}/{record.code_version}",
            record.step,
            str(v.snapshot_id),
            f"{record.rows:,}",
            f"{record.seconds:,.1f}",
            f"{record.n_bytes / 1e6:,.1f}",
            safe(why + counts),
            ", ".join(names.get(v.snapshot_id, [])),
        )
    return shown


def _print_wide(shown: Table) -> None:
    """Print a table in full width, whatever the terminal's: snapshot ids must not be cut."""
    shown.width = Measurement.get(out, out.options.update(max_width=LOG_WIDTH), shown).maximum
    out.print(shown, crop=False, highlight=False)


@app.command("list")
def list_command(recipe: RecipePath, output: AsFormat = OutputFormat.TABLE) -> None:
    """List branches and tags with their snapshot of every table."""
    from rasterloom.versions.corpus import TABLES  # heavy
    from rasterloom.versions.refs import refs  # heavy

    found = refs(open_corpus(recipe))
    if output is OutputFormat.JSON:
        for ref in found:
            print_json(asdict(ref))
        return
    # A corpus without captioners has no table of captions.
    tables = [name for name in TABLES if name != "captions" or any(name in ref.snapshots for ref in found)]
    shown = Table("name", "", *tables, box=None, pad_edge=False)
    for ref in found:
        shown.add_row(ref.name, ref.kind, *(str(ref.snapshots.get(table, "")) for table in tables))
    _print_wide(shown)


@app.command("show")
def show_command(
    recipe: RecipePath,
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="Branch, tag or snapshot. Default: the recipe's own."),
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Show each table at a version, with the step that made it: settings, inputs, counts."""
    from rasterloom.versions.history import made  # heavy

    found = made(open_corpus(recipe, version))
    if output is OutputFormat.JSON:
        for v in found:
            print_json(_facts(v))
        return
    for v in found:
        record = v.record
        title = Text.assemble((safe(record.step), "bold"), f"  snapshot {v.snapshot_id} of {v.table}")
        out.print(title, highlight=False)
        lines = {
            "made": f"{v.committed:%Y-%m-%d %H:%M:%S} UTC by {record.user or '?'}",
            "rasterloom": f"{record.package}, version {record.code_version} of the step",
            "recipe": record.recipe,
            "takedowns": f"without the rows of {record.takedowns}" if record.takedowns else "",
            "rows": f"{record.rows:,} in {record.shards:,} shards, {record.n_bytes / 1e6:,.1f} MB",
            "time": f"{record.seconds:,.1f} s, of workers {record.worker_seconds:,.1f} s",
            "outcome": ", ".join(f"{k} {n:,}" for k, n in record.counts.items()),
            "inputs": ", ".join(f"{k} {f}" for k, f in record.inputs.items()),
            "parents": ", ".join(f"{k} {s}" for k, s in record.parents.items()),
            "settings": as_json(record.config),
            "fingerprint": record.fingerprint,
        }
        for name, value in lines.items():
            if value:
                out.print(f"  {name}: {safe(value)}", highlight=False)


@app.command("tag")
def tag_command(recipe: RecipePath, name: Name, at: AtVersion = None) -> None:
    """Tag the present version of all tables; corpus@NAME reads it."""
    from rasterloom.versions.refs import tag  # heavy

    corpus = open_corpus(recipe, at)
    out.print(f"{corpus.name}@{name}: {_snapshots(tag(corpus, name).snapshots)}", highlight=False)


@app.command("branch")
def branch_command(recipe: RecipePath, name: Name, at: AtVersion = None) -> None:
    """Create a branch. A recipe with `corpus: NAME@BRANCH` reads and commits there, not on main."""
    from rasterloom.versions.refs import branch  # heavy

    corpus = open_corpus(recipe, at)
    out.print(f"{corpus.name}@{name}: {_snapshots(branch(corpus, name).snapshots)}", highlight=False)
    apply_pending_takedowns(corpus)


@app.command("delete")
def delete_command(recipe: RecipePath, name: Name) -> None:
    """Delete a tag or a branch. No file is removed."""
    from rasterloom.versions.refs import delete  # heavy

    corpus = open_corpus(recipe)
    gone = delete(corpus, name)
    out.print(
        f"{gone.kind} {name} of {corpus.name} is gone; it was at {_snapshots(gone.snapshots)}",
        highlight=False,
    )


@app.command("rollback")
def rollback_command(
    recipe: RecipePath,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A tag, a branch or a snapshot.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be repeated.")] = None,
) -> None:
    """Set main to a version. Nothing is removed: rolling forward works the same way.

    A later run of a recipe whose results were rolled back makes them
    current again, without computing them anew.
    """
    from rasterloom.versions.corpus import TABLES  # heavy
    from rasterloom.versions.refs import rollback  # heavy

    corpus = open_corpus(recipe)
    _check_tables(table or [])
    moved = rollback(corpus, version, tuple(table) if table else TABLES)
    for name, (before, after) in moved.items():
        out.print(f"{name}: {before} -> {after}", highlight=False)
    if not moved:
        out.print(f"main is at {version} already.", highlight=False)
    apply_pending_takedowns(corpus)


@app.command("diff")
def diff_command(
    recipe: RecipePath,
    a: Annotated[str, typer.Argument(metavar="A", help="A branch, a tag or a snapshot.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another; else the recipe's own.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be repeated.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with images of some rows.")
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Count added, removed and changed rows from version A to B."""
    from rasterloom.pipelines.inspection.version_diff import compare  # heavy

    _check_tables(table or [])
    of_a, of_b = open_corpus(recipe, a), open_corpus(recipe, b)
    with out.status("comparing") as status:
        found = compare(
            of_a, of_b, tuple(table or ()), page, begin=lambda name: status.update(f"comparing {name}")
        )
    if output is OutputFormat.JSON:
        for one in found:
            print_json(asdict(one))
        return
    shown = Table(
        "table", of_a.ref, of_b.ref, "added", "removed", "changed", "in columns", box=None, pad_edge=False
    )
    for one in found:
        columns = [f"{name} {number:,}" for name, number in one.columns.items()]
        columns += [f"{name} is new" for name in one.columns_added]
        columns += [f"{name} is gone" for name in one.columns_removed]
        counts = (one.rows_a, one.rows_b, one.added, one.removed, one.changed)
        shown.add_row(one.table, *(f"{n:,}" for n in counts), ", ".join(columns))
    out.print(shown, highlight=False)
    for one in found:
        for kind, keys in one.examples.items():
            if keys:
                out.print(f"{one.table}, {kind}: {' '.join(keys[:3])} ...", highlight=False)
    if page:
        out.print(f"gallery: {page}", highlight=False)


@app.command("reader")
def reader_command(
    recipe: RecipePath,
    table: Annotated[str, typer.Argument(metavar="TABLE")] = "images",
    library: Annotated[
        Library, typer.Option("--for", help="Library that reads the table.")
    ] = Library.PYICEBERG,
    at: AtVersion = None,
) -> None:
    """Print a Python program by which another library reads a table."""
    from rasterloom.versions.reader_program import reader_program  # heavy

    typer.echo(safe(reader_program(open_corpus(recipe, at), table, library.value), LINES), nl=False)


@app.command("verify")
def verify_command(
    recipe: RecipePath,
    at: AtVersion = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check sizes and footers only.")] = False,
) -> None:
    """Verify that a version's files exist, are unchanged and readable."""
    from rasterloom.versions.corpus import TABLES  # heavy
    from rasterloom.versions.verify import verify  # heavy

    corpus = open_corpus(recipe, at)
    total = sum(len(corpus.files(name)) for name in TABLES)
    with out.status("reading the files") as status:
        standing, problems = verify(
            corpus,
            deep=not quick,
            advance=lambda done, _: status.update(f"{done:,} of {total:,} files"),
        )
    for s in standing:
        out.print(
            f"{s.table}: {s.good_files:,} of {s.files:,} files and {s.good_rows:,} of {s.rows:,} rows stand",
            highlight=False,
        )
    for p in problems:
        out.print(Text.assemble(("bad", "red"), safe(f"  {p.table} {p.file} {p.what}")), highlight=False)
    if problems:
        raise typer.Exit(FAILED)
