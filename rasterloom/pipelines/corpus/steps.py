"""Steps that build a corpus, from pairs to tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain

import pyarrow as pa

from rasterloom.errors import RasterloomError, RecipeError
from rasterloom.pipelines.corpus import host_limits, shard_work
from rasterloom.pipelines.corpus.caption_steps import caption_steps
from rasterloom.pipelines.corpus.existing_steps import is_fixed, steps_of_version
from rasterloom.pipelines.corpus.length_index import lengths_step
from rasterloom.pipelines.corpus.pair_weights import has_weights
from rasterloom.pipelines.corpus.token_steps import text_step, token_steps
from rasterloom.pipelines.step import Halves, HasResult, ShardStep
from rasterloom.pipelines.workspace.retries import with_retries
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import IMAGES, PAIRS, SCORES, SELECTION, StepKind
from rasterloom.sources.fetch.img2dataset import img2dataset_version
from rasterloom.sources.fetch.opt_out import opt_outs_digest
from rasterloom.sources.pairs import check_sources
from rasterloom.storage.parquet_options import IMAGE_PARQUET, TEXT_PARQUET
from rasterloom.versions.corpus import Corpus

ROWS_AT_ONCE, MOST_SHARDS_AT_ONCE = 4000, 4  # of a worker that fetches


def corpus_steps(recipe: Recipe) -> list[HasResult]:
    """The steps that build a corpus, in order; of ``corpus: name@tag``, those that made that version.

    Raises:
        RecipeError: what the recipe names is not there, or its keep rule cannot be used.
    """
    if is_fixed(Corpus.of(recipe)):
        return steps_of_version(recipe)
    return steps_of_recipe(recipe)


def steps_of_recipe(recipe: Recipe) -> list[HasResult]:
    """The steps that the recipe itself asks for. RecipeError as for ``corpus_steps``."""
    try:
        return _corpus_steps(recipe)
    except ValueError as error:
        raise RecipeError(str(error)) from None


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Name a section of the recipe in an error about it."""
    try:
        yield
    except RasterloomError as error:
        error.field = error.field or section
        raise
    except ValueError as error:
        raise RecipeError(str(error), field=section) from None


def _corpus_steps(recipe: Recipe) -> list[HasResult]:
    from rasterloom.filtering.scorers import registry as scorers  # heavy
    from rasterloom.filtering.selection import check_keep  # heavy
    from rasterloom.sources.readers import registry as readers  # heavy

    columns = _score_columns(recipe.score)
    with _named("keep"):
        check_keep(recipe.keep, columns)
    content = check_sources(recipe.sources, lambda number: _named(f"sources[{number}]"))
    pairs = ShardStep(
        StepKind.PAIRS.value,
        shard_work.Sources(sources=recipe.sources),
        code_version="3",  # 3: samples of any task
        identity={"content": content, **readers.plugin_identity(recipe.sources)},
        plan=shard_work.plan_pairs,
        # An order, and no other rows: what was made without it stays.
        work=partial(shard_work.read_pairs, by_host=host_limits.may_share(recipe.fetch, recipe.run)),
        schema=PAIRS,
        table="pairs",
        parquet=TEXT_PARQUET,
    )
    images = _images_step(recipe, pairs)
    scores = ShardStep(
        StepKind.SCORES.value,
        shard_work.Scores(scorers=recipe.score),
        code_version="1",
        identity={"scorers": scorers.identity(recipe.score), **scorers.plugin_identity(recipe.score)},
        inputs=(images,),
        plan=shard_work.plan_scores,
        work=shard_work.score_images,
        schema=pa.schema([*SCORES, *columns]),
        table="scores",
        parquet=TEXT_PARQUET,
        uses_gpu=scorers.wants_gpu(recipe.score),
    )
    selection = ShardStep(
        StepKind.SELECTION.value,
        recipe.keep,
        # 2: kept rows stay kept; 3: text alone, duplicates of plain pairs only; 4: semantic in cuts
        code_version="3" if recipe.keep.dedup.semantic is None else "4",
        inputs=(images, scores),
        plan=shard_work.plan_selection,
        work=shard_work.select_images,
        schema=SELECTION,
        table="selection",
        parquet=TEXT_PARQUET,
        remembers=("dedup",) if recipe.keep.dedup.memory else None,
    )
    captions = caption_steps(recipe, pairs, images, selection)
    text = text_step(recipe.tokenize, images, selection, *captions)
    tokens = {
        target: token_steps(recipe, target, (images, scores, selection, text), captions)
        for target in recipe.tokenize.targets
    }
    weighted = has_weights(recipe.sources)
    lengths = [lengths_step(target, steps[-1], weighted) for target, steps in tokens.items()]
    return [pairs, images, scores, selection, *captions, text, *chain(*tokens.values()), *lengths]


def _score_columns(configs: Sequence[Score]) -> pa.Schema:
    """Columns that the scorers give. An error names the one at fault."""
    from rasterloom.filtering.scorers import registry as scorers  # heavy

    with _named("score"):
        try:
            return scorers.score_columns(configs)
        except ValueError:
            for number, config in enumerate(configs):
                with _named(f"score[{number}]"):
                    scorers.make_scorers((config,))
            raise


def _images_step(recipe: Recipe, pairs: HasResult) -> HasResult:
    """The step that fetches, with the retries on record."""
    limits = recipe.run.host_limits
    origin = shard_work.Origin(recipe.sources, recipe.run.img2dataset_python, limits)
    images = ShardStep(
        StepKind.IMAGES.value,
        recipe.fetch,
        code_version="3",  # 3: several images a row, hashes of averages
        identity=_fetch_identity(recipe),
        inputs=(pairs,),
        plan=shard_work.plan_images,
        work=partial(shard_work.fetch_images, origin=origin),
        schema=IMAGES,
        table="images",
        parquet=IMAGE_PARQUET,
        guarded=True,
        overlap=_overlap(recipe.fetch),
        beside=partial(host_limits.serve, config=recipe.fetch, limits=limits),
        halves=Halves(shard_work.rows_of, shard_work.part_of, shard_work.killed_row),
    )
    return with_retries(Corpus.of(recipe), images, partial(shard_work.fetch_again, origin=origin))


def _overlap(fetch: Fetch) -> int:
    """Shards of a worker at once: some thousand rows, whose images it holds until a shard is done."""
    if fetch.engine == "img2dataset":
        return 1  # it has threads of its own
    return min(max(ROWS_AT_ONCE // fetch.shard_rows, 2), MOST_SHARDS_AT_ONCE)


def _fetch_identity(recipe: Recipe) -> dict[str, str]:
    """Identity of fetching outside the recipe: opt-out list, version of another engine."""
    found = {}
    if recipe.fetch.opt_out:
        found["opt_out_list"] = opt_outs_digest(recipe.fetch.opt_out)
    if recipe.fetch.engine == "img2dataset":
        found["img2dataset"] = img2dataset_version(recipe.run.img2dataset_python)
    return found
