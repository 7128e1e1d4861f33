"""The commands ``versions export``, ``versions push`` and ``versions adopt``."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import AtVersion, RecipePath, load_recipe, open_corpus, out
from rasterloom.errors import RecipeError
from rasterloom.pipelines.import_export.export_formats import Form


def export_command(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    form: Annotated[
        Form, typer.Option("--as", help="Hugging Face dataset, webdataset tars, plain Parquet, or files.")
    ] = Form.HF,
    at: AtVersion = None,
) -> None:
    """Export the selected images of a version, with a dataset card.

    `datasets.load_dataset(FOLDER)` reads the Hugging Face form. The card
    lists licences, sources, the keep rule, and counts of dropped pairs.
    """
    from rasterloom.pipelines.import_export.export_dataset import export  # heavy

    corpus = open_corpus(recipe, at)
    total = sum(file.rows for file in corpus.files("images"))
    with out.status("reading") as status:
        card = export(
            corpus, folder, form, advance=lambda done, _: status.update(f"{done:,} of {total:,} rows")
        )
    out.print(f"{card.rows:,} samples: {folder}", highlight=False)


def push_command(
    recipe: RecipePath,
    place: Annotated[str, typer.Argument(metavar="hf://OWNER/NAME", help="A data set; created if missing.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Export to this folder and keep it; else a temporary one, removed at the end."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Create the data set for everybody, not as private.")
    ] = False,
    at: AtVersion = None,
) -> None:
    """Upload the selected images of a version to the Hugging Face hub.

    The data set gets one commit with the data and a card, in place of the
    version before, and the version's tag. What is there already is not
    uploaded again. `hf auth login` or HF_TOKEN logs in.
    """
    from rasterloom.pipelines.import_export.push_dataset import push  # heavy

    corpus = open_corpus(recipe, at)
    total = sum(file.rows for file in corpus.files("images"))
    with out.status("asking the hub") as status:
        done = push(
            corpus,
            place,
            folder=folder,
            public=public,
            advance=lambda done, _: status.update(f"exporting: {done:,} of {total:,} rows"),
            uploads=status.stop,  # the hub's library has bars of its own
        )
    tag = f", tag {done.tag}" if done.tag else ""
    out.print(f"{done.url}{tag}" + ("" if done.new else ": was there already"), highlight=False)


def adopt_command(
    recipe: RecipePath,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="pairs, images, scores or selection.")],
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A Parquet file or a folder of them, or s3://...")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=THEIRS", help="The files' name for a column; may be repeated."),
    ] = None,
) -> None:
    """Import Parquet files as a table's next version, and record their origin.

    Files in the workspace that already have the table's columns are used in
    place; others are rewritten with the missing columns: keys from url and
    caption, sizes and hashes of images, "kept" of a selection.
    """
    from rasterloom.pipelines.import_export.import_tables import adopt  # heavy

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
