"""Starter recipe for a source that a user points at."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from rasterloom.errors import RecipeError, SourceError
from rasterloom.pipelines.inspection.source_preview import Preview, preview
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sources import NO_CAPTION
from rasterloom.sources.guess import Guess, guess_source
from rasterloom.sources.readers.registry import check_source
from rasterloom.utils.redact import cut

SHOWN_COLUMNS = 20
SHOWN = 60  # characters of a name in a comment
COLUMN = 40  # at which comments begin
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
ROLES = ("url", "image", "caption")
# Of each field of a source: what its line says.
COMMENTS = {
    "path": "a file, a folder, a glob or a list of these",
    "kind": "how it is read: docs/sources.md",
    "url": "column with the URLs",
    "caption": "column with the captions",
    "image": "column with the images, or the paths to them",
    "root": "folder that the paths in that column begin in",
    "licence": "licence of each image; or a text for all",
    "columns": "names of the columns, as the file has no header",
    "delimiter": "between the values",
    "quote": "around values",
    "encoding": "its text is not UTF-8; or cp1252, gb18030, ...",
    "split": "the first of the data set",
}
REST = """\
fetch: {max_side: 1536, per_host: 8}    # longest side of a stored image; requests to one host at a time
score: [quality]                        # also flatness, clip, aesthetic, nsfw, text_area: docs/filter.md
keep: quality >= 0.2 and min_side >= 256   # SQL over the columns of images and scores
dedup: {phash_radius: 4}                # drop near duplicates; null keeps them
tokenize: {codec: mini, targets: [512]} # resolutions; codecs: docs/codecs.md
# train: {stages: [{target: 512, epochs: 1, lr: 2.0e-4}]}   # of a tiny model: docs/training.md
"""
PROMPT = "a red bicycle"  # where a source has no captions


@dataclass(frozen=True)
class Look:
    """A source, as it is understood."""

    place: str
    guess: Guess
    preview: Preview

    @property
    def corpus(self) -> str:
        """Name for a corpus of it."""
        name = re.sub(r"[^a-z0-9]+", "_", self.preview.name.lower()).strip("_")
        return name if re.fullmatch(r"[a-z][a-z0-9_]*", name) else f"corpus_{name}".rstrip("_")

    def lines(self) -> Iterator[str]:
        """Yield what was understood, in lines."""
        head, *rest = self.preview.lines()
        yield head
        fields = {name: value for name, value in self.guess.fields.items() if name != "path"}
        if fields:
            yield f"  {', '.join(f'{name}: {_shown(value)}' for name, value in fields.items())}"
        if columns := self.guess.columns:
            more = f", and {len(columns) - SHOWN_COLUMNS:,} more" if len(columns) > SHOWN_COLUMNS else ""
            yield f"  columns: {', '.join(cut(name, SHOWN) for name in columns[:SHOWN_COLUMNS])}{more}"
        yield from rest


def look_at(place: str, url: str = "", caption: str = "") -> Look:
    """Look at a source, and tell how to read it. Nothing is written.

    Args:
        url, caption: columns that are known; "none" for images without captions.

    Raises:
        SourceError: nothing is there, or it cannot be read.
    """
    path = place if "://" in place else str(Path(place).expanduser().absolute())
    if os.path.isdir(path) and not any(os.scandir(path)):
        raise SourceError(f"{place}: the folder is empty")
    guess = guess_source(path, url, caption)
    check_source(guess.source)
    return Look(place, guess, preview(guess.source))


def write_recipe(look: Look, out: Path) -> None:
    """Write a starter recipe to a new file.

    Raises:
        RecipeError: the file is there, cannot be written, or would lie in the folder that it reads.
    """
    refuse_inside(look.guess, out, "out")
    text = recipe_text(look, out)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError("is there already: name another file", field="out", value=out) from None
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", field="out", value=out) from None
    try:
        load_recipe(out)
    except BaseException:
        with suppress(OSError):
            out.unlink()
        raise


def refuse_inside(guess: Guess, out: Path, field: str) -> None:
    """Raise RecipeError if something would lie in the folder that is read.

    What is written there would be read as part of the source, and be another source at the next run.
    """
    (path,) = guess.source.paths
    if "://" not in path and Path(path).is_dir() and out.resolve().is_relative_to(Path(path).resolve()):
        raise RecipeError(f"lies in {path}, which is read: name another place", field=field, value=out)


def recipe_text(look: Look, out: Path) -> str:
    """Return the recipe, with a comment on each line."""
    guess = look.guess
    lines = [
        f"# {cut(look.place, SHOWN)}: {guess.kind}, {look.preview.rows}. Every field: docs/recipe.md",
        _line(f"corpus: {look.corpus}", "name of the tables; corpus@branch, corpus@tag: docs/versions.md"),
        _line("workspace: ./work", "all results go there; or s3://bucket/prefix, with a catalog"),
        "sources:",
    ]
    for name, value in guess.fields.items():
        shown = _relative(value, look, out) if name in ("path", "root") else value
        sign = "  - " if name == "path" else "    "
        lines.append(_line(f"{sign}{name}: {_scalar(shown)}", _comment(name, value, guess)))
    if "licence" not in guess.fields:
        lines.append(_line("    # licence: CC0-1.0", "of all images, or {column: NAME}"))
    prompt = shorten(cut(look.preview.caption, 3 * SHOWN), SHOWN, placeholder="") or PROMPT
    sample = f"# sample: {{prompts: [{_scalar(prompt)}]}}   # images for the report, by the trained model"
    return "\n".join([*lines, f"{REST}{sample}\n"])


def _line(text: str, comment: str) -> str:
    return f"{text:<{COLUMN - 1}} # {comment}" if comment else text


def _comment(name: str, value: Any, guess: Guess) -> str:
    comment = COMMENTS.get(name, "")
    if name == "path" and guess.columns:
        columns = [column for column in guess.columns if column not in guess.fields.values()][:SHOWN_COLUMNS]
        return f"other columns: {', '.join(cut(c, SHOWN) for c in columns)}" if columns else comment
    if name == "caption" and value == NO_CAPTION:
        comment = "no captions found: images are fetched, scored and selected; tokens need captions"
    elif name == "caption" and guess.kind in ("folder", "webdataset"):
        comment = "from .txt, .caption or .json beside each image"
    if others := guess.others.get(name):
        comment += f"; or {', '.join(cut(other, SHOWN) for other in others[:SHOWN_COLUMNS])}"
    return comment


def _relative(path: str, look: Look, out: Path) -> str:
    """Return a path relative to the recipe's folder, if given relative."""
    if "://" in path or Path(look.place).expanduser().is_absolute():
        return path
    return os.path.relpath(path, out.absolute().parent)


def _scalar(value: Any) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    if not isinstance(value, str):
        return f"{{column: {_scalar(value.column)}}}"
    if PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    quoted: str = yaml.safe_dump(
        value, default_style='"', width=float("inf"), allow_unicode=value.isprintable()
    )
    return quoted.rstrip("\n")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(cut(one, SHOWN) for one in value)}]"
    return cut(value if isinstance(value, str) else f"column {value.column}", SHOWN)
