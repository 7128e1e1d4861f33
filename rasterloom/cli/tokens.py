"""The command ``tokenize``, and the commands on tokens."""

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.help import App
from rasterloom.cli.options import (
    LogAs,
    LogFormat,
    Quiet,
    RecipePath,
    load_recipe,
    out,
    plan_table,
    progress_on,
    result,
)
from rasterloom.utils.redact import safe

app = App(help="Show a corpus's tokens, or import some.")

FAILURES_SHOWN = 10


class Profile(StrEnum):
    CHAMELEON = "chameleon"
    MOVQ = "movq"


def tokenize_command(
    recipe: RecipePath,
    target: Annotated[
        list[int] | None,
        typer.Option(help="Resolution, a multiple of 32; may be repeated. Default: the recipe's targets."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")] = False,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Tokenize the selected images of a corpus at one more target.

    Works on images, scores and selection as they are: nothing is
    downloaded or scored, and the recipe's sources may be gone. The result
    is a new version of the table tokens, with this target beside the
    others. It can be stopped at any time; the same command continues.
    """
    from rasterloom.pipelines.import_export.retokenize import retokenize  # heavy

    loaded = load_recipe(recipe)
    planned = retokenize(loaded, tuple(target or ()), progress_on(out, quiet, log), dry_run)
    if dry_run:
        out.print(plan_table(planned))
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
    image: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Save original and decoded image here.")
    ] = None,
) -> None:
    """Show one token sequence, with the loss mask beside its tokens.

    Up to nine decimal digits are a row's number, anything else is a key.
    With --out, the image is decoded from its codes and saved beside the
    crop that was encoded.
    """
    from rasterloom.pipelines.inspection.token_view import find, save_images, text_lines  # heavy

    with out.status("looking for the row"):
        found = find(load_recipe(recipe), which, target)
    for line in text_lines(found, shutil.get_terminal_size((100, 24)).columns):
        out.print(line, highlight=False)
    if image:
        save_images(found, image)
        out.print(f"image: {image}", highlight=False)


@app.command("import")
def import_command(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="record.json, or record.jsonl of one process.")
    ],
    profile: Annotated[Profile, typer.Option(help="chameleon: Lumina-mGPT; movq: Lumina-mGPT 2.0.")],
    into: Annotated[str, typer.Option(metavar="CORPUS", help="A recipe, or WORKSPACE/CORPUS.")],
    target: Annotated[
        int | None, typer.Option(help="Resolution. Default: that of the first image's size.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace tokens that the corpus made itself.")
    ] = False,
) -> None:
    """Import the output of Lumina-mGPT's pre_tokenize.py.

    Reads the record and its pickles, {token, label, id} each, checks
    every frame, and makes them a version of the corpus's table tokens.
    Broken samples are listed with the reason. Pickles are read without
    running any code in them.
    """
    from rasterloom.pipelines.import_export.import_tokens import corpus_of, import_tokens, target_of  # heavy
    from rasterloom.recipe.run import Run  # heavy

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
