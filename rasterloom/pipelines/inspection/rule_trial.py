"""Effect of another keep rule on the present tables; nothing is run."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.errors import RecipeError
from rasterloom.filtering.scorers.registry import score_columns
from rasterloom.filtering.selection import check_keep
from rasterloom.pipelines.corpus import shard_work
from rasterloom.pipelines.corpus.steps import steps_of_recipe
from rasterloom.pipelines.step import ShardStep
from rasterloom.pipelines.workspace.status import inputs_of, status
from rasterloom.recipe.filtering import Keep
from rasterloom.recipe.recipe import Recipe
from rasterloom.report.rule_trial_page import Group, Trial, write_trial
from rasterloom.schema import StepKind
from rasterloom.storage import parquet_io
from rasterloom.versions.corpus import Corpus

SEED = "rasterloom.try"
SHOWN = 24  # images of each reason
GROUPS = 20  # the most frequent reasons that are shown


@dataclass(frozen=True)
class Change:
    """Rows that only one rule keeps, with the other rule's reason."""

    kept: bool  # by the rule that is tried
    reason: str
    rows: int


@dataclass(frozen=True)
class Tried:
    """Result of a trial."""

    trial: Trial
    changes: tuple[Change, ...]
    """The most frequent first."""
    reasons: dict[str, tuple[int, int]]
    """Rows by reason, by the current rule and by the other."""


def try_rule(recipe: Recipe, rule: str, page: Path | None = None) -> Tried:
    """Compare the selection of a recipe with that of another rule.

    Args:
        page: file for a gallery of what would change; none is written when None

    Raises:
        RecipeError: the rule cannot be used, or the recipe's images have no scores yet
    """
    corpus = Corpus.of(recipe)
    made = {step.kind: step for step in steps_of_recipe(recipe)}
    selection = made[StepKind.SELECTION]
    assert isinstance(selection, ShardStep)
    other = recipe.keep.model_copy(update={"rule": rule})
    try:
        check_keep(other, score_columns(recipe.score))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    after = _selection(corpus, replace(selection, config=other), other)
    before = _selection(corpus, selection, recipe.keep)
    was, is_ = before["kept"].to_numpy(), after["kept"].to_numpy()
    changed = np.flatnonzero(was != is_)
    rows = pa.table(
        {
            "key": before["key"].take(pa.array(changed)),
            "kept": pa.array(is_[changed]),
            # Why the other of the two does not keep it.
            "reason": pc.if_else(pa.array(is_), before["reason"], after["reason"]).take(pa.array(changed)),
        }
    )
    trial = Trial(
        corpus=corpus.name,
        rule_before=recipe.keep.rule,
        rule_after=rule,
        rows=len(before),
        kept_before=int(was.sum()),
        kept_after=int(is_.sum()),
        newly_kept=int((~was & is_).sum()),
        newly_dropped=int((was & ~is_).sum()),
    )
    counted = rows.group_by(["kept", "reason"]).aggregate([("key", "count")]).to_pylist()
    changes = sorted(
        (Change(c["kept"], c["reason"], c["key_count"]) for c in counted),
        key=lambda c: (-c.rows, c.reason, c.kept),
    )
    if page is not None:
        groups = [Group(c.reason, c.rows, c.kept, _sample(rows, c)) for c in changes[:GROUPS]]
        groups.sort(key=lambda g: not g.kept)
        states = [status(corpus, made[kind]) for kind in (StepKind.IMAGES, StepKind.SCORES)]
        snapshots = {s.step.name: s.snapshot_id for s in states if s.snapshot_id is not None}
        write_trial(corpus, snapshots, trial, groups, page)
    counts = [parquet_io.count_of(table["reason"]) for table in (before, after)]
    names = sorted({*counts[0], *counts[1]})
    return Tried(trial, tuple(changes), {n: (counts[0].get(n, 0), counts[1].get(n, 0)) for n in names})


def _selection(corpus: Corpus, step: ShardStep, keep: Keep) -> pa.Table:
    """Rows of a selection in the order of its images: committed, or computed in memory."""
    for given in step.inputs:
        state = status(corpus, given)
        if not state.done:
            message = f"a rule needs the scores of the recipe, and {given.name} is not done ({state.reason})"
            raise RecipeError(message, needs="scores")
    (shard,) = step.plan(corpus.store, inputs_of(corpus, step), step.config)
    if not status(corpus, step).done:
        try:
            return pa.concat_tables(shard_work.select_images(corpus.store, shard.spec, keep)[0])
        except ValueError as error:
            raise RecipeError(str(error)) from None
    files = [file.name for file in corpus.files("selection", status(corpus, step).snapshot_id)]
    return parquet_io.read_files(corpus.store, files)


def _sample(rows: pa.Table, change: Change) -> tuple[str, ...]:
    """Random sample of keys, the same on every run."""
    chosen = pc.and_(pc.equal(rows["kept"], change.kept), pc.equal(rows["reason"], change.reason))
    keys = rows["key"].filter(chosen).to_pylist()
    return tuple(sorted(keys, key=lambda key: hashlib.md5(f"{key}{SEED}".encode()).digest())[:SHOWN])
