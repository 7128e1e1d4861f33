"""Choice of the best image of several, by a judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.base import Judge, Judgement, SetJudge, SuitePrompt
from rasterloom.filtering.judges.registry import make_judges
from rasterloom.recipe.sampling import BestOf


@dataclass(frozen=True)
class Best:
    """The image that a judge scores highest, and its score.

    None where the judge cannot say.
    """

    image: Image.Image
    score: float | None


def judge_of(config: BestOf, field: str = "sample.best_of.judge") -> Judge:
    """Make the judge that chooses.

    Raises:
        RecipeError: it is unknown, lacks an option, or compares sets of images.
    """
    try:
        (judge,) = make_judges((config.judge,))
    except ValueError as error:
        raise RecipeError(str(error), field=field, value=config.judge.name) from None
    if isinstance(judge, SetJudge):
        raise RecipeError("compares sets of images", field=field, value=judge.name)
    return judge


def best_of_each(images: Sequence[Image.Image], prompts: Sequence[str], judge: Judge) -> list[Best]:
    """Keep the best image of each prompt; the first of equal ones.

    Args:
        images: as many of each prompt as of another, those of a prompt one after the other.
    """
    if not prompts:
        return []
    each = len(images) // len(prompts)
    asked = [SuitePrompt(str(number), prompt) for number, prompt in enumerate(prompts) for _ in range(each)]
    scores = [overall(found) for found in judge([np.asarray(image) for image in images], asked)]
    best = []
    for start in range(0, len(images), each):
        group = range(start, start + each)
        number = max(group, key=lambda i: (-np.inf if scores[i] is None else scores[i], -i))
        best.append(Best(images[number], scores[number]))
    return best


def overall(judgement: Judgement) -> float | None:
    """Return an image's score as a whole; marks break ties."""
    totals, marks = list(judgement.totals.values()), [mark.score for mark in judgement.marks]
    if not totals and not marks:
        return None
    whole = fmean(totals or marks)
    return whole + 1e-3 * fmean(marks) if totals and marks else whole


def settings_of(config: BestOf | None) -> dict[str, Any]:
    """Return the choice's settings for ``samples.json``."""
    return {} if config is None else {"best_of": {"n": config.n, "judge": config.judge.name}}
