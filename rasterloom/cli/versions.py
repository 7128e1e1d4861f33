"""The commands on the versions of a corpus."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rasterloom.cli.options import AsFormat, OutputFormat, RecipePath, out, print_json, tell_settled
from rasterloom.pipelines.import_export.export_formats import Form
from rasterloom.recipe.loader import load_recipe
from rasterloom.utils.redact import as_json, safe
from rasterloom.versions.corpus import MAIN, TABLES, Corpus
from rasterloom.versions.history import Version, log, made

app = typer.Typer(help="Look at the versions of a corpus, name them, compare them.", no_args_is_help=True)

FAILED = 1
LOG_WIDTH = 180
At = Annotated[
    str | None, typer.Option(metavar="VERSION", help="A branch, a tag or a snapshot; else the recipe's own.")
]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def corpus_of(recipe: Path, at: str | None = None) -> Corpus:
    """Open a recipe's corpus at a version, which must be there."""
    from rasterloom.versions.refs import check_ref

    corpus = Corpus.of(load_recipe(recipe))
    corpus = replace(corpus, ref=at) if at else corpus
    check_ref(corpus)
    return corpus


def _facts(version: Version) -> dict[str, Any]:
    committed = version.committed.isoformat()
    return {**version.__dict__, "committed": committed, "record": version.record.__dict__}


def _snapshots(found: dict[str, int]) -> str:
    return ", ".join(f"{table} {snapshot}" for table, snapshot in found.items())


@app.command("log")
def log_command(
    recipe: RecipePath,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """List the versions of a corpus's tables, newest first."""
    from rasterloom.versions.refs import refs

    corpus = corpus_of(recipe)
    found = log(corpus, table)
    if output is OutputFormat.JSON:
        for v in found:
            print_json(_facts(v))
        return
    names: dict[int, list[str]] = {}
    for ref in refs(corpus):
        for snapshot in ref.snapshots.values() if ref.name != MAIN else ():
            names.setdefault(snapshot, []).append(ref.name)
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
    _print_wide(shown)


def _print_wide(shown: Table) -> None:
    """As wide as it must be, whatever the terminal: a snapshot cut short is of no use."""
    shown.width = Measurement.get(out, out.options.update(max_width=LOG_WIDTH), shown).maximum
    out.print(shown, crop=False, highlight=False)


@app.command("list")
def list_command(recipe: RecipePath, output: AsFormat = OutputFormat.TABLE) -> None:
    """List branches and tags, and the snapshot that each names in every table."""
    from rasterloom.versions.refs import refs

    found = refs(corpus_of(recipe))
    if output is OutputFormat.JSON:
        for ref in found:
            print_json(asdict(ref))
        return
    shown = Table("name", "", *TABLES, box=None, pad_edge=False)
    for ref in found:
        shown.add_row(ref.name, ref.kind, *(str(ref.snapshots.get(table, "")) for table in TABLES))
    _print_wide(shown)


@app.command("show")
def show_command(
    recipe: RecipePath,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Show what each table holds at a version, and the step that made it: settings, inputs, counts."""
    found = made(corpus_of(recipe, version))
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
def tag_command(recipe: RecipePath, name: Name, at: At = None) -> None:
    """Give the present version of all tables a name that stays with it: NAME is read as corpus@NAME."""
    from rasterloom.versions.refs import tag

    corpus = corpus_of(recipe, at)
    out.print(f"{corpus.name}@{name}: {_snapshots(tag(corpus, name).snapshots)}", highlight=False)


@app.command("branch")
def branch_command(recipe: RecipePath, name: Name, at: At = None) -> None:
    """Begin a branch. A recipe of `corpus: NAME@BRANCH` reads and commits there, and leaves main alone."""
    from rasterloom.versions.refs import branch

    corpus = corpus_of(recipe, at)
    out.print(f"{corpus.name}@{name}: {_snapshots(branch(corpus, name).snapshots)}", highlight=False)
    tell_settled(corpus)


@app.command("delete")
def delete_command(recipe: RecipePath, name: Name) -> None:
    """Take a tag or a branch away. No file is removed."""
    from rasterloom.versions.refs import delete

    corpus = corpus_of(recipe)
    gone = delete(corpus, name)
    out.print(
        f"{gone.kind} {name} of {corpus.name} is gone; it was at {_snapshots(gone.snapshots)}",
        highlight=False,
    )


@app.command("rollback")
def rollback_command(
    recipe: RecipePath,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A tag, a branch or a snapshot.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be given again.")] = None,
) -> None:
    """Make main what it was at a version. Nothing is removed: rolling forward works the same way.

    A run of a recipe that asks for what was rolled back makes it current
    again, without computing it anew.
    """
    from rasterloom.versions.refs import rollback

    corpus = corpus_of(recipe)
    moved = rollback(corpus, version, tuple(table) if table else TABLES)
    for name, (before, after) in moved.items():
        out.print(f"{name}: {before} -> {after}", highlight=False)
    if not moved:
        out.print(f"main is at {version} already.", highlight=False)
    tell_settled(corpus)


@app.command("diff")
def diff_command(
    recipe: RecipePath,
    a: Annotated[str, typer.Argument(metavar="A", help="A branch, a tag or a snapshot.")],
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="Another; else the recipe's own.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be given again.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with some rows' pictures.")
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Count the rows that were added, removed and changed from version A to version B, by column."""
    from rasterloom.pipelines.inspection.version_diff import compare

    of_a, of_b = corpus_of(recipe, a), corpus_of(recipe, b)
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


@app.command("lineage")
def lineage_command(
    recipe: RecipePath,
    what: Annotated[
        str,
        typer.Argument(metavar="X", help="A step, a snapshot, a fingerprint; or a key, a URL or a SHA-256."),
    ],
    onward: Annotated[
        bool, typer.Option("--onward", help="What was made of it, not what it was made of.")
    ] = False,
) -> None:
    """Trace a result back to its sources (train/512, a snapshot, ...), or a picture on to the checkpoints.

    Of a key, a URL or the SHA-256 of a picture it shows which versions of
    tokens hold it, and which checkpoints were trained on those.
    """
    from rasterloom.errors import VersionError
    from rasterloom.versions import lineage

    corpus = corpus_of(recipe)
    nodes = lineage.graph(corpus)
    keys = lineage.keys_of(corpus, what)
    if keys:
        held = lineage.holding(corpus, nodes, keys)
        trained = lineage.checkpoints_of(corpus, nodes, keys)
        out.print(f"{len(keys)} pairs: {' '.join(keys[:8])}", highlight=False)
        for title, fingerprints in (
            ("tokens that hold them, or did", held),
            ("checkpoints that saw them", trained),
        ):
            out.print(f"{title}: {', '.join(nodes[f].name for f in fingerprints) or 'none'}", highlight=False)
        return
    try:
        start = lineage.find(nodes, what)
    except VersionError as error:
        raise VersionError(f"{error}; and no pair has it as key, URL or SHA-256") from None
    found = (lineage.descendants if onward else lineage.ancestors)(nodes, start)
    for node in found if onward else reversed(found):
        record = node.record
        counts = ", ".join(f"{k} {n:,}" for k, n in sorted(record.counts.items(), key=lambda i: -i[1])[:4])
        line = Text.assemble((safe(node.name), "bold"), f"  {record.finished}  {safe(counts)}")
        out.print(line, highlight=False)
        if record.inputs:
            given = (
                nodes[f].name if f in nodes else f"{step}, no longer on record"
                for step, f in record.inputs.items()
            )
            out.print(f"  made of {', '.join(given)}", highlight=False)


@app.command("verify")
def verify_command(
    recipe: RecipePath,
    at: At = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and footers only, not every page.")] = False,
) -> None:
    """Check that every file of a version is there, as it was committed, and readable to its last page."""
    from rasterloom.versions.verify import verify

    corpus = corpus_of(recipe, at)
    total = sum(len(corpus.files(name)) for name in TABLES)
    with out.status("looking at the files") as status:
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


@app.command("export")
def export_command(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    form: Annotated[
        Form, typer.Option("--as", help="A Hugging Face data set, webdataset tars, or plain Parquet.")
    ] = Form.HF,
    at: At = None,
) -> None:
    """Write what a version keeps as files for others, with a README that says what it is.

    `datasets.load_dataset(FOLDER)` reads the Hugging Face form. The README
    has licences, sources, the keep rule, and what became of every pair.
    """
    from rasterloom.pipelines.import_export.export_dataset import export

    corpus = corpus_of(recipe, at)
    total = sum(file.rows for file in corpus.files("images"))
    with out.status("reading") as status:
        card = export(
            corpus, folder, form, advance=lambda done, _: status.update(f"{done:,} of {total:,} rows")
        )
    out.print(f"{card.rows:,} samples: {folder}", highlight=False)


@app.command("adopt")
def adopt_command(
    recipe: RecipePath,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="pairs, images, scores or selection.")],
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A Parquet file or a folder of them, or s3://...")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=THEIRS", help="The files' name for a column; may be given again."),
    ] = None,
) -> None:
    """Make Parquet files that others made the next version of a table, with a record of where they are from.

    Files in the workspace that have the table's columns already are taken
    where they lie; others are written anew, with what they lack: keys from
    url and caption, sizes and hashes of pictures, "kept" of a selection.
    """
    from rasterloom.errors import RecipeError
    from rasterloom.pipelines.import_export.import_tables import adopt

    pairs = [tuple(item.split("=", 1)) for item in column or ()]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise RecipeError(f"--column takes NAME=THEIRS, not {wrong[0][0]}")
    with out.status("reading") as status:
        found = adopt(
            load_recipe(recipe),
            table,
            path,
            dict(pairs),  # type: ignore[arg-type]
            lambda done, total: status.update(f"{done:,} of {total:,} files"),
        )
    out.print(
        f"{table}@{found.snapshot_id}: {found.rows:,} rows; {found.in_place:,} files taken where they lie, "
        f"{found.written:,} written",
        highlight=False,
    )
