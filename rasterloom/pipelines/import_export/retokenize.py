"""Tokens of a further target from what a corpus already holds: no source is read, nothing fetched or scored.

The steps are those of a full run, on tables taken as they stand: their fingerprints are read off the
tables' records and not worked out from the recipe, so that neither its sources nor its scorers are looked
at. Where the recipe is still the one the tables were made by, a full run finds the same steps done.
"""

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus.length_index import lengths_step
from rasterloom.pipelines.corpus.token_steps import text_step, token_steps
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import run_steps
from rasterloom.pipelines.step import FinishedStep, HasResult
from rasterloom.pipelines.workflow import Planned
from rasterloom.pipelines.workspace.status import status
from rasterloom.recipe.recipe import Recipe
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus


def retokenize(
    recipe: Recipe, targets: tuple[int, ...], progress: Progress, dry_run: bool = False
) -> list[Planned]:
    """Tokenise what a corpus keeps at further targets, or say what would be done.

    Args:
        targets: resolutions; those of the recipe when empty.

    Raises:
        RecipeError: a target is none, the corpus has no selection, or it is older than the images.
        StepFailed: a step could not be finished.
    """
    steps = steps_on_tables(recipe, targets or recipe.tokenize.targets)
    if not dry_run:
        return run_steps(recipe, steps, progress)
    corpus = Corpus.of(recipe)
    return [Planned(s.step, s, not s.done) for s in (status(corpus, step) for step in steps)]


def steps_on_tables(recipe: Recipe, targets: tuple[int, ...]) -> list[HasResult]:
    """The steps from the current images, scores and selection to the tokens of some targets."""
    from rasterloom.tokenize.buckets import bucket_sizes

    for target in targets:
        try:
            bucket_sizes(target)
        except ValueError as error:
            raise RecipeError(f"--target: {error}") from None
    images, scores, selection = _existing(recipe)
    try:
        text = text_step(recipe.tokenize, images, selection)
        made = {t: token_steps(recipe, t, images, scores, selection, text) for t in dict.fromkeys(targets)}
    except ValueError as error:
        raise RecipeError(str(error)) from None
    lengths = [lengths_step(target, packed) for target, (_, packed) in made.items()]
    return [text, *(step for pair in made.values() for step in pair), *lengths]


def _existing(recipe: Recipe) -> list[HasResult]:
    corpus = Corpus.of(recipe)
    found: dict[str, HasResult] = {}
    for name in ("images", "scores", "selection"):
        head = head_snapshot(corpus, corpus.table(name), name)
        if head is None:
            raise RecipeError(
                f"the corpus {recipe.corpus} in {recipe.workspace} has no {name} yet: "
                "rasterloom run RECIPE --until selection"
            )
        record = head[1]
        late = [
            n
            for n, fingerprint in record.inputs.items()
            if n in found and found[n].fingerprint != fingerprint
        ]
        if late:
            raise RecipeError(
                f"{name} was made before the current version of {', '.join(late)}: "
                "rasterloom run RECIPE --until selection"
            )
        found[name] = FinishedStep(record, name)
    return list(found.values())
