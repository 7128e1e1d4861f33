"""Tokens of another target from the present tables of a corpus.

The steps are those of a full run, but the fingerprints of the tables come from their records instead of the
recipe, so that neither its sources nor its scorers are read. A full run of the same recipe finds the same
steps done.
"""

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.length_index import lengths_step
from rasterloom.pipelines.corpus.pair_weights import is_weighted
from rasterloom.pipelines.corpus.token_steps import text_step, token_steps
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import check_kept, run_steps
from rasterloom.pipelines.step import FinishedStep, HasResult
from rasterloom.pipelines.workflow import Planned
from rasterloom.pipelines.workspace.status import status
from rasterloom.recipe.recipe import Recipe
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus


def retokenize(
    recipe: Recipe, targets: tuple[int, ...], progress: Progress, dry_run: bool = False
) -> list[Planned]:
    """Tokenize a corpus's selected images at other targets.

    Args:
        targets: resolutions; those of the recipe when empty.

    Raises:
        RecipeError: a target is none, the corpus has no selection, or it is older than the images.
        StepFailed: the selection keeps nothing, or a step could not be finished.
    """
    steps = steps_on_tables(recipe, targets or recipe.tokenize.targets)
    if not dry_run:
        return run_steps(recipe, steps, progress)
    corpus = Corpus.of(recipe)
    return [Planned(s.step, s, not s.done) for s in (status(corpus, step) for step in steps)]


def steps_on_tables(recipe: Recipe, targets: tuple[int, ...]) -> list[HasResult]:
    """Steps from the present images, scores and selection to tokens."""
    for target in targets:
        try:
            bucket_sizes(target)
        except ValueError as error:
            raise RecipeError(str(error), field="target") from None
    images, scores, selection = _existing(recipe)
    try:
        text = text_step(recipe.tokenize, images, selection)
        made = {t: token_steps(recipe, t, (images, scores, selection, text)) for t in dict.fromkeys(targets)}
    except ValueError as error:
        raise RecipeError(str(error)) from None
    weighted = is_weighted(Corpus.of(recipe))
    lengths = [lengths_step(target, steps[-1], weighted) for target, steps in made.items()]
    return [text, *(step for steps in made.values() for step in steps), *lengths]


def _existing(recipe: Recipe) -> list[HasResult]:
    corpus = Corpus.of(recipe)
    found: dict[str, HasResult] = {}
    for name in ("images", "scores", "selection"):
        head = head_snapshot(corpus, corpus.table(name), name)
        if head is None:
            message = f"the corpus {recipe.corpus} in {recipe.workspace} has no {name} yet"
            raise RecipeError(message, needs="selection")
        record = head[1]
        late = [
            n
            for n, fingerprint in record.inputs.items()
            if n in found and found[n].fingerprint != fingerprint
        ]
        if late:
            message = f"{name} was made before the current version of {', '.join(late)}"
            raise RecipeError(message, needs="selection")
        found[name] = FinishedStep(record, name)
    check_kept("selection", record)
    return list(found.values())
