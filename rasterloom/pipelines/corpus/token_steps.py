"""Steps from kept pairs to tokens: text vocabulary, codes, rows by bucket."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow.compute as pc
from pydantic import Field

from rasterloom.pipelines.corpus import prompt_work, token_work
from rasterloom.pipelines.corpus.shard_work import FILES_AT_ONCE
from rasterloom.pipelines.step import FileStep, HasResult, Inputs, ShardStep, StepContext
from rasterloom.recipe.base import Section
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import CAPTIONED_TOKENS, PROMPTS, TOKENS, StepKind
from rasterloom.sources.pairs import uncaptioned_sources
from rasterloom.storage.layout import TOKENIZER
from rasterloom.storage.parquet_io import read_files
from rasterloom.storage.parquet_options import CODES_PARQUET, PROMPTS_PARQUET, TOKEN_PARQUET
from rasterloom.storage.store import Store
from rasterloom.tokenize import sample_rows
from rasterloom.tokenize.codecs.load import codec_digest, plugin_identity, wants_gpu
from rasterloom.tokenize.grown_vocabulary import read_tokenizer
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.text_tokenizer import text_of, train_text
from rasterloom.tokenize.unirep import image_length

GROUP_TOKENS = 1 << 20  # of a row group: 1.7 MB on disk, 4 MB read; a loader keeps hundreds of them


class TextVocabulary(Section):
    """Config of the text vocabulary."""

    text: str | None = Field(exclude=True)  # its digest counts, not where it lies
    codec: str = Field(exclude=True)  # whose tokens are in the digest where they count
    text_vocab: int


def text_step(config: Tokenize, images: HasResult, selection: HasResult, *captions: HasResult) -> HasResult:
    """The text encoder: a tokenizer.json in the step's folder.

    Args:
        captions: further captions, which a vocabulary that is trained here learns, too.

    Raises:
        ValueError: the recipe's own cannot be read, or lacks a token that the codec needs
    """
    return FileStep(
        StepKind.TEXT.value,
        TextVocabulary(text=config.text, codec=config.codec, text_vocab=config.text_vocab),
        code_version="2",
        identity={"digest": _text_digest(config)},
        inputs=(images, selection, *(() if config.text else captions)),
        make=make_text,
    )


def token_steps(
    recipe: Recipe, target: int, given: Sequence[HasResult], captions: Sequence[HasResult] = ()
) -> list[HasResult]:
    """Codes by shard, prompts of further captions, and rows packed by bucket.

    Args:
        given: images, scores, selection and text.
    """
    config = token_work.TokenizeAt(
        target=target,
        tokenize=recipe.tokenize.model_copy(update={"targets": (target,)}),
        uncaptioned=bool(captions) and bool(uncaptioned_sources(recipe.sources)),
    )
    codes = ShardStep(
        StepKind.CODES.step(target),
        config,
        code_version="2",  # 2: samples of any task, limits, in the order of packing
        identity={"weights": _codec_digest(recipe), **plugin_identity(recipe.tokenize.codec)},
        inputs=tuple(given),
        plan=token_work.plan_tokenize,
        work=token_work.tokenize_images,
        schema=token_work.CODES,
        parquet=CODES_PARQUET,
        uses_gpu=wants_gpu(recipe.tokenize.codec),
    )
    prompts = _prompts_step(recipe, config, codes, given, captions) if captions else None
    packed = pack_step(config, codes, recipe.tokenize.codec, recipe.tokenize.rows_per_file, prompts)
    return [codes, *([prompts] if prompts else []), packed]


def _prompts_step(
    recipe: Recipe,
    config: token_work.TokenizeAt,
    codes: HasResult,
    given: Sequence[HasResult],
    captions: Sequence[HasResult],
) -> HasResult:
    """Token ids of the captions of each sequence that pass the rule."""
    assert recipe.caption
    images, *_, text = given
    return ShardStep(
        StepKind.PROMPTS.step(config.target),
        prompt_work.PromptsAt(target=config.target, tokenize=config.tokenize, rule=recipe.caption.keep),
        code_version="1",
        inputs=(images, codes, text, *captions),
        plan=prompt_work.plan_prompts,
        work=prompt_work.make_prompts,
        schema=PROMPTS,
        parquet=PROMPTS_PARQUET,
    )


def pack_step(
    config: token_work.AtTarget,
    codes: HasResult,
    codec: str,
    rows_per_file: int,
    prompts: HasResult | None = None,
) -> HasResult:
    """Rows of ``codes`` without failures, as table rows of a target."""
    target = config.target
    return ShardStep(
        StepKind.TOKENS.step(target),
        config,
        code_version="2",  # 2: packed denser
        inputs=(codes, *([prompts] if prompts else [])),
        plan=partial(token_work.plan_pack, rows_per_file=rows_per_file),
        work=token_work.pack_tokens,
        schema=CAPTIONED_TOKENS if prompts else TOKENS,
        table="tokens",
        replaces=f"target == {target}",
        partition_by=("target", "bucket"),
        parquet={**TOKEN_PARQUET, "row_group_size": group_rows(codec, target)},
    )


def group_rows(codec: str, target: int) -> int:
    """Rows that have about ``GROUP_TOKENS`` together."""

    return max(1, GROUP_TOKENS // image_length(target, target, profile_of(codec)))


def make_text(context: StepContext[TextVocabulary]) -> dict[str, int]:
    """Copy the user's tokenizer, or train a byte-level BPE. It is trained on the kept captions and turns."""

    config, folder, inputs = context.config, context.folder, context.inputs
    store = context.corpus.store
    if config.text:
        (folder / TOKENIZER).write_bytes(read_tokenizer(config.text, config.codec).encode())
        return {}
    counts = {"captions": 0}
    text = train_text(_kept_texts(store, inputs, counts), config.text_vocab)
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    return counts


def _kept_texts(store: Store, inputs: Inputs, counts: dict[str, int]) -> Iterator[str]:
    """Yield and count the texts of kept rows, file by file."""
    images, selection = ([file.name for file in inputs[name]] for name in ("images", "selection"))
    for start in range(0, len(images), FILES_AT_ONCE):
        columns = ["key", "shard", "caption", "turns"]
        rows = read_files(store, images[start : start + FILES_AT_ONCE], None, columns)
        shards = pc.unique(rows["shard"])
        kept = read_files(store, selection, pc.field("shard").isin(shards) & pc.field("kept"), ["key"])
        rows = rows.filter(pc.is_in(rows["key"], kept["key"].combine_chunks()))
        for batch in rows.to_batches():
            for text in map(sample_rows.text_of, batch.to_pylist()):
                counts["captions"] += bool(text)
                yield text
    for name, files in inputs.items():
        if StepKind.of(name) is StepKind.CAPTIONS:
            for file in files:
                found = read_files(store, [file.name], pc.field("error").is_null(), ["caption"])["caption"]
                counts["captions"] += len(found)
                yield from found.to_pylist()


def _text_digest(config: Tokenize) -> str | None:
    """Digest of the recipe's own tokenizer, which is checked. None if it has none."""

    if config.text is None:
        return None
    try:
        content = read_tokenizer(config.text, config.codec)
        text_of(config, content)
    except OSError as error:
        raise ValueError(f"tokenize.text: cannot read {error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"tokenize.text: {config.text} is no tokenizer.json: it is not UTF-8") from None
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _codec_digest(recipe: Recipe) -> str:

    return codec_digest(recipe.tokenize.codec, recipe.tokenize.weights)[:20]
