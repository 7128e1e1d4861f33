"""Suites of prompts, drawn by checkpoints and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.base import Features, SetJudge
from rasterloom.filtering.judges.distances import with_interval
from rasterloom.filtering.judges.prompts import ELSEWHERE, SCENES
from rasterloom.filtering.judges.registry import make_judges
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.models.load import ModelChoice, decoder_of, load_model, text_codec_of
from rasterloom.pipelines.models.suite_step import SCHEMA, SuiteAt, SuiteSpec, suite_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import ShardStep
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.pipelines.workspace.retries import worked_on
from rasterloom.pipelines.workspace.status import output_files, status
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.suites import Suite
from rasterloom.report.suite_page import Figure, Judged, figures_of, suite_page
from rasterloom.storage.parquet_io import read_files
from rasterloom.utils.suggest import did_you_mean


@dataclass(frozen=True)
class CheckpointFigures:
    """A checkpoint's figures on a suite, and the table with its images."""

    name: str
    figures: tuple[Figure, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class SuiteEvaluation:
    """Checkpoints side by side on one suite."""

    suite: str
    prompts: int
    seeds: tuple[int, ...]
    size: tuple[int, int]
    checkpoints: tuple[CheckpointFigures, ...]
    page: str


def suites_of(recipe: Recipe, asked: Sequence[str], judges: Sequence[str]) -> tuple[Suite, ...]:
    """Suites by the recipe's names, or by file.

    All of the recipe's if none is asked for.

    Args:
        judges: names, in place of the suites' own.

    Raises:
        RecipeError: there is no suite of a name, and no such file.
    """
    known = {suite.name: suite for suite in recipe.evaluate.suites}
    found = [known[name] if name in known else _of_file(name, known) for name in asked]
    found = found if asked else list(known.values())
    if not found:
        raise RecipeError("the recipe has no suites", hint="give {suite}, or set evaluate.suites")
    if judges:
        scores = tuple(Score(name=name) for name in judges)
        found = [suite.model_copy(update={"judges": scores}) for suite in found]
    return tuple(found)


def _of_file(name: str, known: dict[str, Suite]) -> Suite:
    if name != SCENES and name not in ELSEWHERE and "." not in name and not Path(name).exists():
        names = did_you_mean(name, dict.fromkeys([*known, SCENES]))
        raise RecipeError("no such suite", field="suite", value=name, hint=f"{names}, and files")
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return Suite(name="".join(c if c.isalnum() or c in "_-" else "-" for c in stem) or "suite", prompts=name)


def judge_suites(
    workflow: Workflow, suites: Sequence[Suite], choices: Sequence[ModelChoice], progress: Progress
) -> list[SuiteEvaluation]:
    """Draw and judge suites with each chosen model.

    What was done before is not done again.

    Raises:
        RecipeError: a model, a suite or a judge cannot be used.
        StepFailed: a shard could not be drawn or judged.
    """
    decoder_of(workflow.recipe)
    text_codec = text_codec_of(workflow)
    models = [load_model(workflow, choice, text_codec) for choice in choices]
    steps = [[suite_step(workflow, suite, model) for model in models] for suite in suites]
    flat = [step for of_suite in steps for step in of_suite]
    with hold_lease(workflow.corpus, "evaluate", worked_on(flat), progress.say):
        for step in flat:
            _run(workflow, step, progress)
        labels = [model.label for model in models]
        return [_gathered(workflow, suite, of, labels) for suite, of in zip(suites, steps, strict=True)]


def _run(workflow: Workflow, step: ShardStep[SuiteAt, SuiteSpec], progress: Progress) -> None:
    if not status(workflow.corpus, step).done:
        start_ray(workflow.recipe.run)
        run_step(workflow.corpus, step, workflow.recipe.run, workflow.recipe.digest, progress)


def _distances(rows: pa.Table, references: dict[str, tuple[SetJudge, Features]]) -> list[Figure]:
    """Figures of the judges of sets."""
    found = []
    embeddings = [dict(of_image) for of_image in rows["embeddings"].to_pylist()]
    for name, (judge, reference) in references.items():
        drawn = np.array([of_image[name] for of_image in embeddings], np.float32)
        figures = with_interval(judge.distance, drawn, reference)
        found.append(Figure(name, "distance", *figures, len(drawn), True))
    return found


def _gathered(
    workflow: Workflow, suite: Suite, steps: Sequence[ShardStep[SuiteAt, SuiteSpec]], labels: Sequence[str]
) -> SuiteEvaluation:
    """Figures of a suite's steps, and the page that shows them."""
    corpus, config = workflow.corpus, steps[0].config
    judged, found = [], []
    order = [judge.name for judge in suite.judges]
    references = {
        judge.name: (judge, judge.reference())
        for judge in make_judges(suite.judges)
        if isinstance(judge, SetJudge)
    }
    for step, label in zip(steps, labels, strict=True):
        names = [file.name for file in output_files(corpus, step)]
        rows = read_files(corpus.store, names, None, SCHEMA.names)
        figures = (*figures_of(rows), *_distances(rows, references))
        figures = tuple(sorted(figures, key=lambda figure: order.index(figure.judge)))
        judged.append(Judged(label, rows, figures))
        found.append(CheckpointFigures(label, figures, tuple(map(corpus.store.path, names))))
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    sampling = f"guidance {config.cfg:g}, temperature {config.temperature:g}, top-k {config.top_k}"
    note = f"{len(config.prompts)} prompts, seeds {seeds[0]} to {seeds[-1]}, {sampling}"
    place = corpus.layout.suite_page(suite.name)
    corpus.store.put(place, suite_page(corpus.name, suite.name, note, judged).encode())
    page = corpus.store.path(place)
    return SuiteEvaluation(suite.name, len(config.prompts), seeds, config.size, tuple(found), page)
