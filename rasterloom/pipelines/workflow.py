"""The steps of a recipe, and which of them would run."""

from dataclasses import dataclass

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.steps import corpus_steps
from rasterloom.pipelines.step import Step
from rasterloom.pipelines.training.steps import training_steps
from rasterloom.pipelines.workspace.status import Status, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.versions.corpus import Corpus


@dataclass(frozen=True)
class Planned:
    """A step and what is to be done about it."""

    step: Step
    status: Status
    runs: bool


def workflow(recipe: Recipe, until: str | None = None) -> list[Step]:
    """All steps of a recipe in order, or those up to and including ``until``.

    Raises:
        RecipeError: there is no step of that name.
    """
    steps = corpus_steps(recipe)
    if until is None or not _named(steps, until):  # a version that a stage trains on may not be there yet
        steps += training_steps(recipe, steps)
    if until is None:
        return steps
    named = _named(steps, until)
    if not named:
        raise RecipeError(f"no step is called {until}; the steps: {', '.join(step.name for step in steps)}")
    return steps[: named[-1] + 1]


def _named(steps: list[Step], name: str) -> list[int]:
    """Which of the steps bear a name, such as ``tokens/512``, or ``tokens`` for all targets."""
    return [i for i, step in enumerate(steps) if step.name == name or step.name.split("/")[0] == name]


def plan(recipe: Recipe, until: str | None = None) -> list[Planned]:
    """Say of each step whether it would run, and why. Nothing is changed."""
    corpus = Corpus.of(recipe)
    found = [status(corpus, step) for step in workflow(recipe, until)]
    return [Planned(s.step, s, not s.done) for s in found]
