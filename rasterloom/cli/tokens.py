"""The commands that make, show and import tokens."""

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rasterloom.cli.options import LogAs, LogFormat, Quiet, RecipePath, out, progress_on, result, run_or_skip
from rasterloom.recipe.loader import load_recipe
from rasterloom.utils.redact import safe

app = typer.Typer(help="Look at a corpus's tokens, or bring some in.", no_args_is_help=True)

FAILURES_SHOWN = 10


class Profile(StrEnum):
    CHAMELEON = "chameleon"
    MOVQ = "movq"


def tokenize_command(
    recipe: RecipePath,
    target: Annotated[
        list[int] | None,
        typer.Option(help="Resolution, a multiple of 32; may be given again. Default: the recipe's targets."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Tokenise what a corpus keeps, at one more target.

    Works on images, scores and selection as they stand: nothing is
    downloaded or scored, and the recipe's sources may be gone. The result
    is a new version of the table tokens, with this target beside the
    others. Stop it whenever you like; the same command goes on.
    """
    from rasterloom.pipelines.import_export.retokenize import retokenize

    loaded = load_recipe(recipe)
    planned = retokenize(loaded, tuple(target or ()), progress_on(out, quiet, log), dry_run)
    if dry_run:
        table = Table("step", "", "why", box=None, pad_edge=False)
        for p in planned:
            table.add_row(p.step.name, run_or_skip(p.runs), p.status.reason)
        out.print(table)
        return
    ran = sum(p.runs for p in planned)
    made = ", ".join(str(t) for t in target or loaded.tokenize.targets)
    lines = [] if quiet else [f"{len(planned)} steps, {ran} ran now."]
    lines.append(f"tokens of {made}: {loaded.workspace}, corpus {loaded.corpus}")
    missing = ", ".join(str(t) for t in target or () if t not in loaded.tokenize.targets)
    if missing:
        lines.append(f"Add {missing} to tokenize.targets of the recipe to train on it.")
    result(log, lines, steps=len(planned), ran=ran, files={"workspace": loaded.workspace})


@app.command("show")
def show_command(
    recipe: RecipePath,
    which: Annotated[
        str, typer.Argument(metavar="KEY|N", help="Key of a row, or its first digits; or its number, from 0.")
    ],
    target: Annotated[int | None, typer.Option(help="Resolution, where there are several.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Save original and decoded picture here.")
    ] = None,
) -> None:
    """Draw one sequence: every token of its frame, with what is learnt marked.

    Up to nine decimal digits are a row's number, anything else is a key.
    With --out, the picture is decoded from its codes and saved beside the
    crop that they were made from.
    """
    from rasterloom.pipelines.inspection.token_view import draw, find
    from rasterloom.pipelines.inspection.token_view import picture as save_picture

    with out.status("looking for the row"):
        found = find(load_recipe(recipe), which, target)
    for line in draw(found, shutil.get_terminal_size((100, 24)).columns):
        out.print(line, highlight=False)
    if picture:
        save_picture(found, picture)
        out.print(f"picture: {picture}", highlight=False)


@app.command("import")
def import_command(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="record.json, or record.jsonl of one process.")
    ],
    profile: Annotated[Profile, typer.Option(help="chameleon: Lumina-mGPT; movq: Lumina-mGPT 2.0.")],
    into: Annotated[str, typer.Option(metavar="CORPUS", help="A recipe, or WORKSPACE/CORPUS.")],
    target: Annotated[
        int | None, typer.Option(help="Resolution. Default: that of the first picture's size.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put them in the place of tokens that the corpus made.")
    ] = False,
) -> None:
    """Bring in what Lumina-mGPT's pre_tokenize.py made.

    Reads the record and its pickles, {token, label, id} each, checks
    every frame, and makes them a version of the corpus's table tokens.
    Samples that are broken are told apart, with the reason. Pickles are
    read without running any code of theirs.
    """
    from rasterloom.pipelines.import_export.import_tokens import corpus_of, import_tokens, target_of
    from rasterloom.recipe.run import Run

    run = load_recipe(into).run if into.endswith((".yaml", ".yml")) else Run()
    shown = progress_on(out, quiet=False, log=LogFormat.TEXT)
    found = import_tokens(record, profile, into, target or target_of(record, profile), replace, run, shown)
    for reason in found.failures[:FAILURES_SHOWN]:
        out.print(f"  {safe(reason)}", highlight=False)
    if len(found.failures) > FAILURES_SHOWN:
        out.print(f"  and {len(found.failures) - FAILURES_SHOWN:,} more")
    out.print(f"{found.rows:,} samples imported, {found.tokens:,} tokens; {len(found.failures):,} failed.")
    place = corpus_of(into)
    out.print(f"tokens: {place.store.root}, corpus {place.name}", highlight=False)
