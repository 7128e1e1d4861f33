"""One token row as text, and its decoded images beside the originals."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.token_work import load_text
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.report.contact_sheet import Row, contact_sheet
from rasterloom.schema import TOKENS, Profile, StepKind
from rasterloom.storage.parquet_io import DataFile, read_files, read_rows
from rasterloom.tokenize import sequence_parser
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.cropping import crop_as_coded
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.text_tokenizer import TextEncoder
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record


@dataclass(frozen=True)
class TokenRow:
    """A token row, with the means to read it."""

    corpus: Corpus
    row: dict[str, Any]
    profile: Profile
    decode: Callable[[list[int]], str] | None
    config: Tokenize


def find(recipe: Recipe, which: str, target: int | None) -> TokenRow:
    """Find a row of the present tokens. The recipe's sources may be gone.

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
        return TokenRow(corpus, row, profile_of(record.config["profile"]), None, recipe.tokenize)
    # The paths of weights and tokenizer are not on record, but in the recipe.
    made = {
        name: value for name, value in record.config["tokenize"].items() if name not in ("prompts", "targets")
    }
    config = recipe.tokenize.model_copy(update=made)
    text, profile = _text(corpus, record, config)
    return TokenRow(corpus, row, profile, text.decode if text else None, config)


def text_lines(found: TokenRow, width: int) -> list[str]:
    """Render a row as text: a heading, then its tokens, ``┃`` beside those in the loss mask."""
    row = found.row
    spans = row["loss_spans"]
    in_loss = sum(spans[1::2]) - sum(spans[::2])
    lines = [f"{row['key']}  target {row['target']}, {row['bucket']}, {row['task']}, {found.profile.name}"]
    lines.append(f"{row['n_tokens']:,} tokens, {in_loss:,} of them in the loss (┃)")
    return [*lines, *sequence_parser.draw(row["input_ids"], spans, found.profile, found.decode, width)]


def save_images(found: TokenRow, path: Path) -> None:
    """Save the row's images: each original crop, where it is on record, beside the decoded image.

    Raises:
        RecipeError: there is no image in the row, or the codec cannot be loaded.
    """
    frames = [p for p in sequence_parser.pieces(found.row["input_ids"], found.profile) if p.codes is not None]
    if not frames:
        raise RecipeError(f"row {found.row['key']} holds no image to save")
    try:
        codec = load_codec(found.profile.name, found.config.weights)
        decoded = [codec.decode(p.codes[None])[0] for p in frames if p.codes is not None]
    except (ValueError, OSError) as error:
        raise RecipeError(f"cannot decode the images: {error}") from None
    originals = _originals(found)
    rows = []
    for number, pixels in enumerate(decoded):
        shown = Image.fromarray(pixels)
        original = originals[number] if len(originals) == len(frames) else None
        crop = _cropped(original, shown.size, number, found) if original else None
        label = "original" if crop else "original: not on record"
        rows.append(Row((label, "decoded"), (crop or Image.new("RGB", shown.size, "white"), shown)))
    contact_sheet(rows).save(path)


def _target(corpus: Corpus, recipe: Recipe, target: int | None) -> int:
    table = corpus.table("tokens")
    found = sorted({int(file.partition[0]) for file in corpus.files("tokens")}) if table else []
    found = [t for t in found if head_snapshot(corpus, table, StepKind.TOKENS.step(t))]
    if not found:
        raise RecipeError(f"the corpus {corpus.name} has no tokens yet", needs="tokens")
    if target is None:
        return next((t for t in recipe.tokenize.targets if t in found), found[0])
    if target not in found:
        raise RecipeError(
            f"the corpus {corpus.name} has tokens of {', '.join(map(str, found))}",
            field="target",
            value=target,
            hint="tokenize the corpus at this target first",
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
    """Find rows by the start of their keys: key, file, and number in the file."""
    found = []
    for file in files:
        keys = read_files(corpus.store, [file.name], columns=["key"])["key"]
        numbers = pc.indices_nonzero(pc.starts_with(keys, prefix)).to_pylist()
        found += [(keys[number].as_py(), file.name, number) for number in numbers]
    return found


def _text(corpus: Corpus, record: Record, config: Tokenize) -> tuple[TextEncoder | None, Profile]:
    """Text encoder of the tokens (None if gone) and their profile."""
    codes = StepKind.CODES.step(record.part)
    try:
        of_codes = Record.from_json(corpus.store.read(corpus.layout.record(codes, record.inputs[codes])))
        name = corpus.layout.text(of_codes.inputs["text"])
        text, profile = load_text(corpus.store, name, config)
    except (FileNotFoundError, KeyError):
        return None, profile_of(config.codec, None if config.text else config.text_vocab)
    return text, profile


def _originals(found: TokenRow) -> list[Image.Image]:
    """Stored images of the row, in the order of their frames. None if they are gone."""
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


def _cropped(image: Image.Image, size: tuple[int, int], number: int, found: TokenRow) -> Image.Image | None:
    """Crop of a stored image as encoded, None if sizes differ."""
    crop, plan = crop_as_coded(image, found.row["key"], number, found.config, found.row["target"])
    return crop if plan.bucket == size else None
