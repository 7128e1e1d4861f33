"""The steps of a recipe and their states."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.steps import corpus_steps
from rasterloom.pipelines.step import HasResult, Step
from rasterloom.pipelines.training.stage_step import StageStep, is_stage
from rasterloom.pipelines.training.steps import training_steps
from rasterloom.pipelines.workspace.status import Status, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import StepKind
from rasterloom.utils.suggest import closest
from rasterloom.versions.corpus import Corpus

CORPUS = (StepKind.PAIRS, StepKind.IMAGES, StepKind.SCORES, StepKind.SELECTION, StepKind.TEXT)
OF_TARGETS = (StepKind.CODES, StepKind.PROMPTS, StepKind.TOKENS, StepKind.LENGTHS)


@dataclass(frozen=True)
class Planned:
    """A step, its state, and whether it would run."""

    step: HasResult
    status: Status
    runs: bool


class Workflow:
    """The steps of a recipe and their states, made once.

    Making steps digests the sources and the weights that a recipe names: a command makes one workflow and
    passes it on. All that raises RecipeError does so where the recipe names what is not there, or a rule
    that cannot be used.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.corpus = Corpus.of(recipe)
        self._statuses: dict[tuple[str, str], Status] = {}

    @cached_property
    def corpus_steps(self) -> list[HasResult]:
        """The steps that build the corpus, in order. Raises RecipeError."""
        return corpus_steps(self.recipe)

    @cached_property
    def steps(self) -> list[HasResult]:
        """All steps, in order. Raises RecipeError."""
        return [*self.corpus_steps, *training_steps(self.recipe, self.corpus_steps)]

    @property
    def stages(self) -> list[StageStep]:
        """The training steps, in order. Raises RecipeError."""
        return list(filter(is_stage, self.steps))

    def until(self, name: str | None) -> list[HasResult]:
        """The steps up to those of a name or a kind, included. All if None.

        Raises:
            RecipeError: there is no step of that name.
        """
        if name is None:
            return self.steps
        # A version that a stage trains on may not be there yet.
        steps = self.corpus_steps if _named(self.corpus_steps, name) else self.steps
        named = _named(steps, name)
        if not named:
            raise no_such_step(name, [step.name for step in steps])
        return steps[: named[-1] + 1]

    def step(self, name: str) -> HasResult:
        """The step of a name, or the last of a kind. Raises RecipeError."""
        return self.until(name)[-1]

    def with_inputs(self, wanted: Sequence[HasResult]) -> list[HasResult]:
        """Some steps, and all that they are made from, in their order."""
        needed: set[str] = set()
        waiting: list[HasResult] = list(wanted)
        while waiting:
            step = waiting.pop()
            if step.name not in needed:
                needed.add(step.name)
                waiting += step.inputs if isinstance(step, Step) else ()
        return [step for step in self.steps if step.name in needed]

    def status(self, step: HasResult) -> Status:
        """The state of a step when first asked for."""
        key = step.name, step.fingerprint
        if key not in self._statuses:
            self._statuses[key] = status(self.corpus, step)
        return self._statuses[key]

    def refresh(self, *, steps: bool = False) -> None:
        """Forget the states, as steps have run. The steps too, where what they are made of has changed."""
        self._statuses.clear()
        for name in ("steps", "corpus_steps") if steps else ():
            self.__dict__.pop(name, None)

    def plan(self, until: str | None = None) -> list[Planned]:
        """Each step, and whether and why it would run. Nothing is changed. Raises RecipeError."""
        states = [self.status(step) for step in self.until(until)]
        return [Planned(state.step, state, not state.done) for state in states]


def check_step_name(recipe: Recipe, name: str) -> None:
    """Raise RecipeError for a name that no step can have.

    By the recipe alone: what its steps are made of may lie where they will run, and not here.
    """
    if "@" in recipe.corpus or StepKind.of(name) is StepKind.PINNED:
        return  # a version has the steps that made it, and the steps of versions are named after them
    captioners = [StepKind.CAPTIONS.step(one.name) for one in recipe.caption.by] if recipe.caption else []
    names = [*map(str, CORPUS[:-1]), *captioners, str(CORPUS[-1])]
    of_targets = [kind for kind in OF_TARGETS if captioners or kind is not StepKind.PROMPTS]
    names += [kind.step(target) for target in recipe.tokenize.targets for kind in of_targets]
    if recipe.train:
        stages = enumerate(recipe.train.stages, start=1)
        names += [StepKind.TRAIN.step(f"{number}-{stage.label}") for number, stage in stages]
        names.append(StepKind.SAMPLE)
    names.append(StepKind.REPORT)
    if name not in names and name not in [step.partition("/")[0] for step in names]:
        raise no_such_step(name, names)


def no_such_step(name: str, names: Sequence[str]) -> RecipeError:
    """The error of a name that no step has."""
    close = closest(name, [part for step in names for part in (step, step.partition("/")[0])])
    hint = f"did you mean {close}? " if close else ""
    return RecipeError(f"no step is called {name}; {hint}the steps: {', '.join(names)}")


def _named(steps: list[HasResult], name: str) -> list[int]:
    """Positions of the steps of a name or a kind: ``tokens/512``, or ``tokens`` for all targets."""
    return [i for i, step in enumerate(steps) if name in (step.name, step.kind)]
