"""The command ``versions takedown``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rasterloom.cli.options import AsFormat, OutputFormat, RecipePath, load_recipe, out, print_json
from rasterloom.errors import RecipeError, one_line
from rasterloom.utils.json_files import lines_of
from rasterloom.utils.redact import safe

if TYPE_CHECKING:
    from rasterloom.pipelines.maintenance.takedown import Outcome
    from rasterloom.versions.corpus import Corpus


def takedown_command(
    recipe: RecipePath,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LIST",
            help="A file with one of these a line, or these themselves: key, URL, prefix of URLs*, host, "
            "SHA-256 or perceptual hash of an image (HASH~4: within 4 bits). Without any: list earlier "
            "takedowns.",
        ),
    ] = None,
    why: Annotated[str, typer.Option(help="Reason, kept with the takedown.")] = "",
    doubles: Annotated[
        bool, typer.Option("--doubles", help="Also rows that were dropped as duplicates of these.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the effect, and change nothing.")] = False,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Remove pairs from every table, on every branch, for good.

    Each table gets a version without them, and later fetches leave them out.
    Also shown are the checkpoints trained on them. Older versions and tags
    still hold them: delete those tags, and `versions gc` removes the files.
    """
    from rasterloom.pipelines.maintenance.takedown import take_down  # heavy
    from rasterloom.versions.corpus import Corpus  # heavy

    corpus = Corpus.of(load_recipe(recipe))
    if not what:
        _show(corpus, output)
        return
    given = [entry for one in what for entry in _entries(one)]
    with out.status("looking for them") as status:
        found = take_down(
            corpus,
            given,
            why=why,
            duplicates=doubles,
            dry_run=dry_run,
            advance=lambda part: lambda done, total: status.update(f"{part}: {done:,} of {total:,} files"),
        )
    if output is OutputFormat.JSON:
        print_json(asdict(found))
        return
    _tell(found, dry_run)


def _tell(found: "Outcome", dry_run: bool) -> None:
    went = "would go" if dry_run else "are gone"
    rows = ", ".join(f"{table} {n:,}" for table, n in found.rows.items()) or "none"
    lines = [f"{len(found.keys):,} pairs; rows that {went}: {rows}"]
    if found.duplicates:
        doubles = f"{len(found.duplicates):,} rows were dropped as duplicates of these and stay"
        lines.append(f"{doubles} (--doubles takes them down, too): {_some(found.duplicates)}")
    lines.append(f"checkpoints that saw them: {', '.join(found.checkpoints) or 'none'}")
    if found.still:
        lines.append(f"tags that hold them still: {', '.join(found.still)}")
    if not dry_run and not found.number:
        lines.append("All of this was taken down before.")
    if found.number:
        lines.append(f"takedown {found.number} is on record: later runs leave them out.")
    for line in lines:
        out.print(line, highlight=False)


def _show(corpus: "Corpus", output: OutputFormat) -> None:
    from rasterloom.pipelines.workspace.tombstones import takedowns  # heavy

    found = takedowns(corpus.store, corpus.name)
    for t in found:
        if output is OutputFormat.JSON:
            print_json(asdict(t))
            continue
        entries = ", ".join(f"{kind} {_some(given)}" for kind, given in t.entries.items())
        seen = f"; seen by {', '.join(t.checkpoints)}" if t.checkpoints else ""
        line = f"{t.number}  {t.when}  {t.user}  {len(t.keys):,} pairs  {entries}{seen}  {t.why}"
        out.print(safe(line.rstrip()), highlight=False)
    if not found and output is OutputFormat.TABLE:
        out.print("Nothing was taken down.")


def _some(names: list[str]) -> str:
    return " ".join(map(safe, names[:3])) + (" ..." if len(names) > 3 else "")


def _entries(given: str) -> list[str]:
    """The lines of a file, or the argument itself without one."""
    path = Path(given)
    try:
        if path.is_file():
            return lines_of(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{given}: {one_line(error)}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{given} is no list: it is not UTF-8 text") from None
    if path.suffix in (".txt", ".list", ".csv"):
        raise RecipeError(f"there is no file {given}")
    return [given]
