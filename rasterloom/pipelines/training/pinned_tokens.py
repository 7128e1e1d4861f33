"""Tokens of a version that a recipe names, ``corpus: name@tag``, as an input of training.

Such tokens are made by no step of the recipe: they are looked up, and what belongs to them is put together
in a folder: the length index of their files, and the text vocabulary that they were written with.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from rasterloom.errors import RecipeError, VersionError
from rasterloom.pipelines.corpus.image_groups import NO_GROUPS, groups_of_tokens, record_of_codes
from rasterloom.pipelines.corpus.length_index import write_index
from rasterloom.pipelines.corpus.pair_weights import is_weighted, read_weights
from rasterloom.pipelines.maintenance.takedown import refuse_held
from rasterloom.pipelines.step import FileStep, StepContext
from rasterloom.recipe.base import Section, is_default
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.train import Part
from rasterloom.schema import StepKind
from rasterloom.storage.layout import LENGTHS, TOKENIZER
from rasterloom.storage.parquet_io import DataFile
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record
from rasterloom.versions.refs import check_ref


class PinnedAt(Section):
    """Tokens of one target in one snapshot."""

    corpus: str
    version: str
    target: int
    snapshot: int
    weighted: bool = Field(False, exclude_if=is_default(False))
    """Rows have the sampling weights of their pairs."""


@dataclass(frozen=True)
class Pinned(FileStep[PinnedAt]):
    """A FileStep that also knows its tokens' text vocabulary."""

    text_file: str = ""  # a name in the store, or a path of this machine
    tokens: Record | None = None


def pinned_step(recipe: Recipe, part: Part, field: str) -> Pinned:
    """Look up the tokens that a part of a stage names. Those that the corpus has where it names no version.

    Args:
        field: of the recipe, for messages, such as ``train.stages[0]``.

    Raises:
        RecipeError: there is no such version, it holds what was taken down since, it has no tokens of this
            target, or they were made with another codec than the recipe's.
    """
    here = Corpus.of(recipe)
    name, _, version = (part.corpus or f"{here.name}@{here.ref}").partition("@")
    corpus = replace(here, name=name, ref=version)
    try:
        if part.corpus:
            check_ref(corpus)
            refuse_held(corpus)
    except VersionError as error:
        raise RecipeError(f"{field}.corpus: {error}") from None
    head = head_snapshot(corpus, corpus.table("tokens"), StepKind.TOKENS.step(part.target))
    if head is None and part.corpus:
        raise RecipeError(f"{field}.corpus: {part.corpus} has no tokens of target {part.target}")
    if head is None:
        raise RecipeError(
            f"{field}.target is {part.target}, which tokenize.targets {list(recipe.tokenize.targets)} does "
            f"not name, and the corpus {name} has no tokens of it: name it there, or tokenize the "
            f"corpus at {part.target}"
        )
    snapshot, record = head
    text = _text_file(corpus, record, recipe, f"{name}@{version}", field)
    config = PinnedAt(
        corpus=name,
        version=version,
        target=part.target,
        snapshot=snapshot.snapshot_id,
        weighted=is_weighted(corpus),
    )
    try:
        digest = hashlib.sha256(_read_text(corpus, text)).hexdigest()[:20]
    except OSError:
        raise RecipeError(f"{field}: the text vocabulary of {name}@{version} is gone: {text}") from None
    return Pinned(
        StepKind.PINNED.step(f"{name}-{version}-{part.target}"),
        config,
        code_version="2",  # 2: held out by image
        identity={"text": digest},
        make=make_pinned,
        text_file=text,
        tokens=record,
    )


def _text_file(corpus: Corpus, record: Record, recipe: Recipe, what: str, field: str) -> str:
    """Location of the text vocabulary that some tokens were written with."""
    codec = record.config.get("profile") or record.config["tokenize"]["codec"]
    if codec != recipe.tokenize.codec:
        raise RecipeError(
            f"{field}: the tokens of {what} are of codec {codec}, but tokenize.codec is "
            f"{recipe.tokenize.codec}"
        )
    made = record_of_codes(corpus, record)
    text = made.inputs.get("text") if made else None
    if text is None:  # imported tokens come with no vocabulary
        if recipe.tokenize.text is None:
            raise RecipeError(
                f"{field}: the tokens of {what} were imported, so tokenize.text must name the tokenizer.json "
                "that they were written with"
            )
        return recipe.tokenize.text
    return corpus.layout.text(text)


def pinned_files(corpus: Corpus, step: Pinned) -> list[DataFile]:
    """The token files of a pinned version."""
    config = step.config
    there = _corpus_of(corpus, config)
    return there.files("tokens", config.snapshot, f"target == {config.target}")


def _corpus_of(corpus: Corpus, config: PinnedAt) -> Corpus:
    return replace(corpus, name=config.corpus, ref=config.version)


def pinned_text(corpus: Corpus, step: Pinned) -> bytes:
    """The text vocabulary of a pinned version, a tokenizer.json."""
    return _read_text(corpus, step.text_file)


def _read_text(corpus: Corpus, file: str) -> bytes:
    return Path(file).read_bytes() if Path(file).is_absolute() else corpus.store.read(file)


def make_pinned(context: StepContext[PinnedAt]) -> dict[str, int]:
    """Write the length index and the text vocabulary."""
    corpus, step = context.corpus, context.step
    assert isinstance(step, Pinned)
    (context.folder / TOKENIZER).write_bytes(pinned_text(corpus, step))
    files, there = pinned_files(corpus, step), _corpus_of(corpus, step.config)
    groups = groups_of_tokens(there, step.tokens) if step.tokens else NO_GROUPS
    weights = read_weights(there) if step.config.weighted else None
    return write_index(corpus.store, files, context.folder / LENGTHS, context.progress, groups, weights)
