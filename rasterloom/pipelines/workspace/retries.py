"""Fetching failed rows again, into a new version of ``images``.

A retry is put on record in the workspace, beside the fingerprint of the step that it began with. From then
on the workflow's step ``images`` is that step *and* its retries: its fingerprint counts them in, so what
follows runs again, a run that was killed goes on, and a further plain run finds everything done.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from rasterloom.errors import RecipeError
from rasterloom.pipelines.step import HasResult, Inputs, RetrySpec, Shard, ShardResult, ShardStep, Step
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.status import status
from rasterloom.schema import ErrorClass, StepKind
from rasterloom.storage.store import Store
from rasterloom.utils.suggest import did_you_mean
from rasterloom.versions.corpus import Corpus

RETRY = "retry"  # name in a step's identity


ConfigT = TypeVar("ConfigT", bound=BaseModel)
SpecT = TypeVar("SpecT", bound=RetrySpec)


def parse_classes(text: str, field: str = "retry") -> list[str]:
    """Return the classes of error in ``timeout,http_5xx``, sorted. RecipeError if one is unknown."""
    names = sorted({name.strip() for name in text.split(",") if name.strip()})
    unknown = [name for name in names if name not in list(ErrorClass)]
    if unknown or not names:
        what = ", ".join(unknown) or "nothing"
        hint = did_you_mean(what, ErrorClass, "the classes: ")
        message = f"no class of error is called {what}; {hint}"
        raise RecipeError(message, field=field)
    return names


def with_retries(
    corpus: Corpus, step: ShardStep[ConfigT, SpecT], again: Callable[[Store, SpecT, ConfigT], ShardResult]
) -> ShardStep[ConfigT, SpecT]:
    """Return the step as it is after all retries on record. ``again`` does a shard that has rows to retry."""
    found = step
    for errors in on_record(corpus, step):
        place = corpus.layout.staging(step.name, found.fingerprint)
        found = replace(
            step,
            identity={**step.identity, RETRY: f"{','.join(errors)} of {found.fingerprint}"},
            plan=partial(plan_retry, plan=step.plan, place=place, errors=errors),
            work=again,
        )
    return found


def retried(settings: Mapping[str, Any]) -> str:
    """The fingerprint whose failures a step with these settings fetched again. Empty if it did not."""
    return str(settings.get(RETRY, "")).rpartition(" of ")[2]


def worked_on(steps: Collection[HasResult]) -> set[str]:
    """Fingerprints whose shards a run of some steps uses."""
    retries = {retried(step.settings) for step in steps if isinstance(step, Step)}
    return {step.fingerprint for step in steps} | retries - {""}


def plan_retry(
    store: Store,
    inputs: Inputs,
    config: ConfigT,
    *,
    plan: Callable[[Store, Inputs, ConfigT], list[Shard[SpecT]]],
    place: str,
    errors: Sequence[str],
) -> list[Shard[SpecT]]:
    """Plan to make shards with rows to retry again. The others published in ``place`` stay."""
    before = {p.shard: p for p in staging.published(store, place).values()}
    shards = []
    for shard in plan(store, inputs, config):
        earlier = before.get(shard.name)
        if earlier is None:  # removed by `versions gc`
            shards.append(shard)
        elif rows := sum(earlier.counts.get(error, 0) for error in errors):
            (file,) = earlier.files  # a shard of images is one
            spec = replace(shard.spec, images=file, errors=list(errors))
            now = shard.now and replace(shard.now, images=file, errors=list(errors))
            shards.append(Shard(shard.name, spec, now=now, rows=rows))
        else:
            shards.append(Shard(shard.name, shard.spec, made=asdict(earlier)))
    return shards


def ask_for_retry(
    corpus: Corpus, images: ShardStep, errors: list[str], say: Callable[[str], None], field: str = "retry"
) -> None:
    """Record a retry of the step, unless needless or already under way.

    Raises:
        RecipeError: the step is not finished, so that its failures are not known yet.
    """
    name = ", ".join(errors)
    state = status(corpus, images)
    first = replace(images, identity={k: v for k, v in images.identity.items() if k != RETRY})
    retries = on_record(corpus, first)
    if not state.done or state.record is None:
        if retries and retries[-1] == errors:
            say(f"The retry of {name} goes on.")
            return
        message = f"{images.name} is not finished ({state.reason})"
        raise RecipeError(message, hint=f"run without {{{field}}} first")
    rows = sum(state.record.counts.get(error, 0) for error in errors)
    if not rows:
        say(f"No row of {images.name} failed with {name}: nothing to retry.")
        return
    record = corpus.layout.retry(first.name, first.fingerprint, len(retries) + 1)
    if not corpus.store.put_if_absent(record, json.dumps(errors).encode()):
        message = "another run has just begun a retry"
        raise RecipeError(message, hint=f"run again without {{{field}}} to join it")
    verb = "Fetching" if images.kind is StepKind.IMAGES else f"{images.name}: asking for"
    say(f"{verb} {rows:,} rows again: {name}.")


def on_record(corpus: Corpus, step: ShardStep) -> list[list[str]]:
    """Classes of each retry of a step, in order."""
    names = corpus.store.list(corpus.layout.retries(step.name, step.fingerprint))
    return [json.loads(corpus.store.read(name)) for name in names]
