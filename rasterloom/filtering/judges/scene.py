"""Judge of drawn scenes."""

from collections.abc import Sequence

from rasterloom.filtering.judges.base import Judgement, Mark, Pixels, SuitePrompt
from rasterloom.filtering.scenes.judge import judge


class SceneJudge:
    """Facts of a drawn scene's prompt, by skill (docs/judging.md)."""

    name = "scene"
    version = "1"
    digest = ""

    def __call__(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            verdict = judge(image, prompt.text)
            marks = tuple(Mark(skill, float(holds)) for skill, holds in verdict.facts.items())
            totals = {} if verdict.all_right is None else {"all": float(verdict.all_right)}
            note = verdict.note or ", ".join(map(str, verdict.seen)) or "nothing"
            found.append(Judgement(marks, totals, note))
        return found
