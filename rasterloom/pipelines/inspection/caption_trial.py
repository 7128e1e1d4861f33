"""Captioners tried on some images, before they are run on all. No version is made."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.captions.caption_shard import caption_shard
from rasterloom.captions.local_model import local_digest
from rasterloom.errors import RecipeError
from rasterloom.filtering.caption_rule import passing
from rasterloom.pipelines.corpus import caption_work
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.recipe import Recipe
from rasterloom.report.caption_trial_page import Estimate, TriedCaption, write_caption_trial
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import read_files
from rasterloom.utils.suggest import did_you_mean

SEED = "rasterloom.captions"
CHECKS = ("refusal", "boilerplate", "echo", "names_model")


@dataclass(frozen=True)
class TriedCaptions:
    """Result of a trial."""

    captions: Mapping[str, Sequence[TriedCaption]]
    """Of each key."""
    estimates: tuple[Estimate, ...]


def try_captioners(
    recipe: Recipe, images: int, by: Sequence[str] = (), page: Path | None = None
) -> TriedCaptions:
    """Caption some selected images, the same ones each time.

    Args:
        by: names of captioners; empty: all.
        page: file for the images with their captions; none is written when None.

    Raises:
        RecipeError: the recipe has no such captioner, or no image is selected yet.
    """
    captioners = _captioners(recipe, by)
    workflow = Workflow(recipe)
    states = {
        kind: workflow.status(workflow.step(kind))
        for kind in (StepKind.PAIRS, StepKind.IMAGES, StepKind.SELECTION)
    }
    for state in states.values():
        if not state.done:
            message = f"captions are of selected images, and {state.step.name} is not done ({state.reason})"
            raise RecipeError(message, needs="selection")
    corpus = workflow.corpus
    files = {kind: corpus.files(state.step.name, state.snapshot_id) for kind, state in states.items()}
    names = {kind: [file.name for file in of_kind] for kind, of_kind in files.items()}
    kept = read_files(corpus.store, names[StepKind.SELECTION], pc.field("kept"), ["key"])["key"].to_pylist()
    chosen = sorted(kept, key=lambda key: hashlib.md5(f"{key}{SEED}".encode()).digest())[:images]
    where = pc.field("key").isin(pa.array(chosen, pa.string()))
    rows = read_files(corpus.store, names[StepKind.IMAGES], where, caption_work.COLUMNS)
    rows = caption_work.plain_pairs(rows)
    pairs = [(file.name, file.rows) for file in files[StepKind.PAIRS]]
    rows = caption_work.with_pairs(corpus.store, pairs, rows, recipe.fetch)
    found: dict[str, list[TriedCaption]] = {key: [] for key in rows["key"].to_pylist()}
    estimates = []
    assert recipe.caption
    for captioner in captioners:
        digest = local_digest(captioner.local) if captioner.local else ""
        table, _ = caption_shard(rows, captioner, digest=digest)
        passes = set(_ids(passing(table, recipe.caption.keep)))
        for row, id_ in zip(table.to_pylist(), _ids(table), strict=True):
            checks = tuple(name.replace("_", " ") for name in CHECKS if row[name])
            failure = f"{row['error']}: {row['detail']}" if row["error"] else ""
            found[row["key"]].append(
                TriedCaption(row["name"], row["caption"] or "", checks, id_ in passes, failure)
            )
        estimates.append(_estimate(captioner, table, len(rows), len(kept)))
    if page is not None:
        snapshots = {
            state.step.name: state.snapshot_id for state in states.values() if state.snapshot_id is not None
        }
        write_caption_trial(corpus, snapshots, found, estimates, page)
    return TriedCaptions(found, tuple(estimates))


def _captioners(recipe: Recipe, by: Sequence[str]) -> list[Captioner]:
    if recipe.caption is None:
        raise RecipeError("the recipe names no captioner", field="caption.by")
    known = {captioner.name: captioner for captioner in recipe.caption.by}
    for name in by:
        if name not in known:
            hint = did_you_mean(name, known, "there are ")
            raise RecipeError(f"no captioner is called {name}; {hint}", field="by")
    return [known[name] for name in by or known]


def _ids(table: pa.Table) -> list[tuple[str, str, int]]:
    return list(zip(*(table[name].to_pylist() for name in ("key", "name", "number")), strict=True))


def _estimate(captioner: Captioner, table: pa.Table, tried: int, images: int) -> Estimate:
    tokens_in, tokens_out, usd = (pc.sum(table[n]).as_py() or 0 for n in ("tokens_in", "tokens_out", "usd"))
    failed = len(pc.unique(table.filter(pc.is_valid(table["error"]))["key"]))
    scale = images / max(1, tried)
    return Estimate(
        captioner.name,
        tried,
        failed,
        images,
        round(tokens_in * scale),
        round(tokens_out * scale),
        usd * scale,
        tokens_in + tokens_out,
        usd,
    )
