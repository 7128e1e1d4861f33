"""The workflow of a corpus, from the list of pairs to the table of tokens, as a list of steps."""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.pipelines import work
from rasterloom.pipelines.retry import with_retries
from rasterloom.pipelines.step import FileStep, Inputs, ShardStep, Step
from rasterloom.recipe import Recipe, RecipeError, Section
from rasterloom.schema import IMAGES, PAIRS, SCORES, SELECTION, TOKENS
from rasterloom.versions.tables import Corpus

# Encoded pictures do not compress; few rows a group keep a reader's memory small.
IMAGE_PARQUET = {
    "row_group_size": 64,
    "compression": {c: "none" if c == "image" else "zstd" for c in IMAGES.names},
}
TEXT_PARQUET = {"row_group_size": 10_000, "compression": "zstd"}
# Codes are close to random: splitting their bytes costs less room than a dictionary or deltas.
TOKEN_PARQUET = {
    "row_group_size": 1024,
    "compression": "zstd",
    "use_dictionary": ["bucket", "task"],
    "column_encoding": {"input_ids.list.element": "BYTE_STREAM_SPLIT"},
}


class TextVocabulary(Section):
    """What the text vocabulary is made of."""

    text: str | None
    text_vocab: int


def corpus_steps(recipe: Recipe) -> list[Step]:
    """The steps that build a corpus, in order.

    Raises:
        RecipeError: what the recipe names is not there, or its keep rule cannot be used.
    """
    try:
        return _corpus_steps(recipe)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _corpus_steps(recipe: Recipe) -> list[Step]:
    from rasterloom.filtering.keep import check_keep
    from rasterloom.filtering.scorers import ON_GPU, identity, score_columns
    from rasterloom.sources.pairs import check_sources

    columns = score_columns(recipe.score)
    check_keep(recipe.keep, columns)
    pairs = ShardStep(
        "pairs",
        work.Sources(sources=recipe.sources),
        code_version="2",
        identity={"content": check_sources(recipe.sources)},
        plan=work.plan_pairs,
        work=work.read_pairs,
        schema=PAIRS,
        table="pairs",
        parquet=TEXT_PARQUET,
    )
    images = ShardStep(
        "images",
        recipe.fetch,
        code_version="2",
        identity=_fetch_identity(recipe),
        inputs=(pairs,),
        plan=work.plan_images,
        # where they lie, and where Python does, is nobody's identity
        work=partial(work.fetch_images, sources=recipe.sources, python=recipe.run.img2dataset_python),
        schema=IMAGES,
        table="images",
        parquet=IMAGE_PARQUET,
        guarded=True,
    )
    images = with_retries(
        Corpus.of(recipe),
        images,
        partial(work.fetch_again, sources=recipe.sources, python=recipe.run.img2dataset_python),
    )
    scores = ShardStep(
        "scores",
        work.Scores(scorers=recipe.score),
        code_version="1",
        identity={"scorers": identity(recipe.score)},
        inputs=(images,),
        plan=work.plan_by_images_file,
        work=work.score_images,
        schema=pa.schema([*SCORES, *columns]),
        table="scores",
        parquet=TEXT_PARQUET,
        uses_gpu=any(score.name in ON_GPU for score in recipe.score),
    )
    selection = ShardStep(
        "selection",
        recipe.keep,
        code_version="2",  # 2: what was kept before stays kept
        inputs=(images, scores),
        plan=work.plan_selection,
        work=work.select_images,
        schema=SELECTION,
        table="selection",
        parquet=TEXT_PARQUET,
        remembers=("dedup",) if recipe.keep.dedup.memory else None,
    )
    t = recipe.tokenize
    text = FileStep(
        "text",
        TextVocabulary(text=t.text, text_vocab=t.text_vocab),
        code_version="1",
        identity={"digest": _file_digest(t.text)},
        inputs=(images, selection),
        make=make_text,
    )
    tokens = [
        step for target in t.targets for step in _token_steps(recipe, target, images, scores, selection, text)
    ]
    return [pairs, images, scores, selection, text, *tokens]


def _token_steps(recipe: Recipe, target: int, *given: Step) -> tuple[Step, Step]:
    """Codes shard by shard, then the same rows packed by bucket into the table."""
    config = work.TokenizeAt(
        target=target, tokenize=recipe.tokenize.model_copy(update={"targets": (target,)})
    )
    codes = ShardStep(
        f"codes/{target}",
        config,
        code_version="1",
        identity={"weights": _codec_digest(recipe)},
        inputs=given,
        plan=work.plan_by_images_file,
        work=work.tokenize_images,
        schema=pa.schema([*TOKENS, ("error", pa.string())]),
        parquet=TOKEN_PARQUET,
    )
    tokens = ShardStep(
        f"tokens/{target}",
        config,
        code_version="1",
        inputs=(codes,),
        plan=work.plan_pack,
        work=work.pack_tokens,
        schema=TOKENS,
        table="tokens",
        replaces=f"target == {target}",
        partition_by=("target", "bucket"),
        parquet=TOKEN_PARQUET,
    )
    return codes, tokens


def make_text(corpus: Corpus, inputs: Inputs, step: Step, folder: Path, *_: Any) -> dict[str, int]:
    """Take the user's tokenizer, or train a byte-level BPE on the captions of the kept pairs."""
    from rasterloom.tokenize.text import train_text

    config = step.config
    assert isinstance(config, TextVocabulary)
    if config.text:
        (folder / "tokenizer.json").write_bytes(Path(config.text).read_bytes())
        return {}
    kept = work.read_files(corpus.store, [f.name for f in inputs["selection"]], pc.field("kept"), ["key"])
    captions = work.read_files(corpus.store, [f.name for f in inputs["images"]], None, ["key", "caption"])
    captions = captions.filter(pc.is_in(captions["key"], kept["key"].combine_chunks()))
    text = train_text(captions["caption"].to_pylist(), config.text_vocab)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return {"captions": captions.num_rows}


def _fetch_identity(recipe: Recipe) -> dict[str, str]:
    """What decides on the images and lies outside the recipe: the opt-out list, another engine's version."""
    from rasterloom.sources.img2dataset import img2dataset_version
    from rasterloom.sources.optout import opt_outs_digest

    found = {}
    if recipe.fetch.opt_out:
        found["opt_out_list"] = opt_outs_digest(recipe.fetch.opt_out)
    if recipe.fetch.engine == "img2dataset":
        found["img2dataset"] = img2dataset_version(recipe.run.img2dataset_python)
    return found


def _file_digest(path: str | None) -> str | None:
    import hashlib

    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:20] if path else None


def _codec_digest(recipe: Recipe) -> str:
    from rasterloom.tokenize.codecs import codec_digest

    return codec_digest(recipe.tokenize.codec, recipe.tokenize.weights)[:20]
