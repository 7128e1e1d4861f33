"""Steps that caption selected images, one a captioner, and their retries."""

from dataclasses import replace
from functools import partial
from typing import Any

from rasterloom.captions.caption_shard import UNFINISHED
from rasterloom.captions.local_model import local_digest
from rasterloom.errors import RecipeError
from rasterloom.filtering.caption_rule import check_caption_rule
from rasterloom.pipelines.corpus import caption_work
from rasterloom.pipelines.corpus.caption_work import CaptionBy, CaptionPlan, CaptionSpec
from rasterloom.pipelines.step import HasResult, ShardStep
from rasterloom.pipelines.workspace.retries import RETRY, on_record
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import CAPTIONS, StepKind
from rasterloom.storage.parquet_options import TEXT_PARQUET
from rasterloom.versions.corpus import Corpus

MOST_SHARDS_AT_ONCE = 8


def caption_steps(recipe: Recipe, *given: HasResult) -> list[HasResult]:
    """The steps of a recipe's captioners, with the retries on record.

    Args:
        given: pairs, images and selection.

    Raises:
        RecipeError: a local model is not there, or the rule cannot be used.
    """
    section = recipe.caption
    if section is None:
        return []
    try:
        check_caption_rule(section.keep)
    except ValueError as error:
        raise RecipeError(str(error), field="caption.keep") from None
    corpus = Corpus.of(recipe)
    return [
        _with_retries(corpus, _caption_step(recipe, number, given), section.shard_rows)
        for number in range(len(section.by))
    ]


def _caption_step(
    recipe: Recipe, number: int, given: tuple[HasResult, ...]
) -> ShardStep[CaptionBy, CaptionSpec]:
    assert recipe.caption
    captioner = recipe.caption.by[number]
    identity: dict[str, Any] = {}
    if captioner.local:
        try:
            identity["weights"] = local_digest(captioner.local)
        except ValueError as error:
            raise RecipeError(str(error), field=f"caption.by[{number}].local.path") from None
    asks = captioner.endpoint is not None
    return ShardStep(
        StepKind.CAPTIONS.step(captioner.name),
        CaptionBy(captioner=captioner),
        code_version="1",
        identity=identity,
        inputs=given,
        plan=caption_work.plan_captions,  # type: ignore[arg-type]  # `_with_retries` gives what it lacks
        work=partial(caption_work.caption_images, fetch=recipe.fetch, digest=identity.get("weights", "")),
        schema=CAPTIONS,
        table="captions",
        replaces=f"captioner == '{captioner.name}'",
        partition_by=("captioner",),
        parquet=TEXT_PARQUET,
        uses_gpu=captioner.local is not None,
        overlap=_overlap(captioner, recipe.caption.shard_rows) if asks else 1,
        workers=1 if asks else None,
        unfinished=tuple(map(str, UNFINISHED)),
        remembers=(),
    )


def _overlap(captioner: Captioner, shard_rows: int) -> int:
    """Shards at once that keep an endpoint busy."""
    assert captioner.endpoint
    return min(2 + 2 * captioner.endpoint.concurrency // shard_rows, MOST_SHARDS_AT_ONCE)


def _with_retries(
    corpus: Corpus, step: ShardStep[CaptionBy, CaptionSpec], shard_rows: int
) -> ShardStep[CaptionBy, CaptionSpec]:
    """The step as it is after all retries on record.

    Answers of the version before are not asked for again.
    """
    again: tuple[str, ...] = ()
    found = step
    for errors in on_record(corpus, step):
        again = tuple(errors)
        identity = {**step.identity, RETRY: f"{','.join(errors)} of {found.fingerprint}"}
        found = replace(step, identity=identity)
    place = corpus.layout.staging(found.name, found.fingerprint)
    plan = partial(caption_work.plan_captions, with_=CaptionPlan(shard_rows, place, again))
    return replace(found, plan=plan)
