"""One token row for a person: its frame drawn as text, its picture decoded beside the original."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from rasterloom.errors import RecipeError
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import TOKENS, Profile, StepKind
from rasterloom.storage.parquet_io import DataFile, read_files, read_rows
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record


@dataclass(frozen=True)
class Found:
    """A token row and what it takes to read it."""

    corpus: Corpus
    row: dict[str, Any]
    profile: Profile
    decode: Callable[[list[int]], str] | None
    config: Tokenize


def find(recipe: Recipe, which: str, target: int | None) -> Found:
    """Find a row of the tokens as they stand; the recipe's sources need not be there any more.

    Args:
        which: key of the row, or the first digits of it; or the row's number, from 0, in decimal digits.
        target: resolution; by default the only one, or the first of the recipe that there is.

    Raises:
        RecipeError: there are no tokens, none of this target, or no such row, or more than one.
    """
    corpus = Corpus.of(recipe)
    target = _target(corpus, recipe, target)
    head = head_snapshot(corpus, corpus.table("tokens"), StepKind.TOKENS.step(target))
    assert head is not None
    files = corpus.files("tokens", where=f"target == {target}")
    row = _row(corpus, files, which, target)
    record = head[1]
    if "profile" in record.config:  # imported, see import_tokens
        from rasterloom.tokenize.profiles import profile_of

        return Found(corpus, row, profile_of(record.config["profile"]), None, recipe.tokenize)
    # Where weights and tokenizer lie is not on record: that says the recipe.
    made = {
        name: value for name, value in record.config["tokenize"].items() if name not in ("prompts", "targets")
    }
    config = recipe.tokenize.model_copy(update=made)
    text, profile = _text(corpus, record, config)
    return Found(corpus, row, profile, text.decode if text else None, config)


def draw(found: Found, width: int) -> list[str]:
    """Draw a row: what it is, then its tokens, ``┃`` beside those that are learnt."""
    from rasterloom.tokenize import sequence_parser as pieces

    row = found.row
    spans = row["loss_spans"]
    learnt = sum(spans[1::2]) - sum(spans[::2])
    lines = [f"{row['key']}  target {row['target']}, {row['bucket']}, {row['task']}, {found.profile.name}"]
    lines.append(f"{row['n_tokens']:,} tokens, {learnt:,} of them learnt (┃)")
    return [*lines, *pieces.draw(row["input_ids"], spans, found.profile, found.decode, width)]


def picture(found: Found, path: Path) -> None:
    """Save the row's pictures: each as it was cropped, where it is on record, beside what its codes say.

    Raises:
        RecipeError: there is no picture in the row, or the codec is not to be had.
    """
    from rasterloom.tokenize.codecs.load import load_codec
    from rasterloom.tokenize.sequence_parser import pieces

    frames = [p for p in pieces(found.row["input_ids"], found.profile) if p.codes is not None]
    if not frames:
        raise RecipeError(f"row {found.row['key']} holds no picture: --out has nothing to save")
    try:
        codec = load_codec(found.profile.name, found.config.weights)
        decoded = [codec.decode(p.codes[None])[0] for p in frames if p.codes is not None]
    except (ValueError, OSError) as error:
        raise RecipeError(f"cannot decode the pictures: {error}") from None
    originals = _originals(found)
    pairs = []
    for number, pixels in enumerate(decoded):
        shown = Image.fromarray(pixels)
        original = originals[number] if len(originals) == len(frames) else None
        pairs.append((_cropped(original, shown.size, number, found) if original else None, shown))
    _beside(pairs).save(path)


def _target(corpus: Corpus, recipe: Recipe, target: int | None) -> int:
    table = corpus.table("tokens")
    found = sorted({int(file.partition[0]) for file in corpus.files("tokens")}) if table else []
    found = [t for t in found if head_snapshot(corpus, table, StepKind.TOKENS.step(t))]
    if not found:
        raise RecipeError(f"the corpus {corpus.name} has no tokens yet: rasterloom run RECIPE --until tokens")
    if target is None:
        return next((t for t in recipe.tokenize.targets if t in found), found[0])
    if target not in found:
        raise RecipeError(
            f"--target {target}: the corpus {corpus.name} has tokens of {', '.join(map(str, found))}; "
            f"rasterloom tokenize RECIPE --target {target} makes them"
        )
    return target


def _row(corpus: Corpus, files: list[DataFile], which: str, target: int) -> dict[str, Any]:
    total = sum(file.rows for file in files)
    if which.isdecimal() and len(which) < 10:
        number = int(which)
        if number >= total:
            raise RecipeError(f"there is no row {number}: target {target} has {total:,} rows, from 0")
        for file in files:
            if number < file.rows:
                rows = read_rows(corpus.store, file.name, number, 1, TOKENS.names)
                return dict(rows.to_pylist()[0])
            number -= file.rows
    found = _look_up(corpus, files, which.lower())
    if len(found) != 1:
        some = ", ".join(key for key, _, _ in found[:5])
        raise RecipeError(
            f"{len(found)} rows of target {target} have keys that begin with {which}: {some}"
            if found
            else f"no row of target {target} has the key {which}: rasterloom explain RECIPE KEY says why"
        )
    _, file_name, number = found[0]
    return dict(read_rows(corpus.store, file_name, number, 1, TOKENS.names).to_pylist()[0])


def _look_up(corpus: Corpus, files: list[DataFile], prefix: str) -> list[tuple[str, str, int]]:
    """Key, file and number in it of the rows whose keys begin so; no other column is read."""
    found = []
    for file in files:
        keys = read_files(corpus.store, [file.name], columns=["key"])["key"]
        numbers = pc.indices_nonzero(pc.starts_with(keys, prefix)).to_pylist()
        found += [(keys[number].as_py(), file.name, number) for number in numbers]
    return found


def _text(corpus: Corpus, record: Record, config: Tokenize) -> tuple[Any, Profile]:
    """The text encoder that the tokens were made with, if it is still there, and their profile."""
    from rasterloom.pipelines.corpus.token_work import load_text
    from rasterloom.tokenize.profiles import profile_of

    ((codes, fingerprint),) = record.inputs.items()
    try:
        of_codes = Record.from_json(corpus.store.read(corpus.layout.record(codes, fingerprint)))
        name = corpus.layout.text(of_codes.inputs["text"])
        text, profile = load_text(corpus.store, name, config)
    except (FileNotFoundError, KeyError):
        return None, profile_of(config.codec, None if config.text else config.text_vocab)
    return text, profile


def _originals(found: Found) -> list[Image.Image]:
    """The stored pictures of the row, in the order of their frames; none if they are gone."""
    store, files = found.corpus.store, found.corpus.files("images")
    at = _look_up(found.corpus, files, found.row["key"])
    if not at:
        return []
    _, name, number = at[0]
    with store.filesystem.open_input_file(store.path(name)) as source:
        known = pq.read_schema(source).names
    columns = [column for column in ("image", "main", "more") if column in known]
    (row,) = read_rows(store, name, number, 1, columns).to_pylist()
    if row["image"] is None:
        return []
    others = [other["image"] for other in row.get("more") or ()]
    place = row.get("main") or 0
    return [Image.open(io.BytesIO(data)) for data in (*others[:place], row["image"], *others[place:])]


def _cropped(image: Image.Image, size: tuple[int, int], number: int, found: Found) -> Image.Image | None:
    """A stored picture as it was cut for the codec, None if it cannot have been cut so."""
    from PIL import ImageOps

    from rasterloom.tokenize.buckets import bucket_sizes
    from rasterloom.tokenize.crop import apply_crop, plan_crop
    from rasterloom.tokenize.limits import crop_seed

    upright = ImageOps.exif_transpose(image) if found.config.exif else image
    seed = crop_seed(found.row["key"], found.config, number)
    plan = plan_crop(upright.size, bucket_sizes(found.row["target"]), seed=seed)
    return apply_crop(upright, plan) if plan.bucket == size else None


def _beside(
    pairs: list[tuple[Image.Image | None, Image.Image]], gap: int = 8, label: int = 22
) -> Image.Image:
    """Pictures in two columns, the original and what is left of it, a pair a row."""
    wide = max(decoded.width for _, decoded in pairs)
    height = label + sum(decoded.height + gap for _, decoded in pairs)
    sheet = Image.new("RGB", (2 * wide + gap, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((2, 2), "original", fill="black", font=font)
    pen.text((wide + gap + 2, 2), "decoded", fill="black", font=font)
    top = label
    for original, decoded in pairs:
        if original is not None:
            sheet.paste(original, (0, top))
        else:
            pen.text((2, top + 2), "not on record", fill="grey", font=font)
        sheet.paste(decoded, (wide + gap, top))
        top += decoded.height + gap
    return sheet
