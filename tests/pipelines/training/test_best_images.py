"""The best of several images, as the judge of scenes finds them."""

import pytest
from PIL import Image

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.base import Judgement, Mark
from rasterloom.filtering.judges.scene import SceneJudge
from rasterloom.pipelines.training.best_images import best_of_each, judge_of, overall
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.sampling import BestOf, SamplingConfig


def scene(colour, side=17):
    image = Image.new("RGB", (64, 64), (228, 228, 228))
    image.paste(colour, (24, 24, 24 + side, 24 + side))
    return image


RED, BLUE = (215, 38, 45), (40, 90, 215)


def test_what_a_prompt_asks_for_is_chosen():
    images = [scene(BLUE), scene(RED), scene(RED), scene(RED), scene(BLUE), scene(BLUE, 4)]
    best = best_of_each(images, ["a red square", "a blue square"], SceneJudge())
    assert [one.image for one in best] == [images[1], images[4]]
    assert [one.score for one in best] == [pytest.approx(1.001)] * 2


def test_the_first_of_equal_images_is_chosen_and_of_those_that_cannot_be_judged():
    images = [scene(RED), scene(BLUE)]
    (wrong,) = best_of_each(images[::-1], ["a green star"], SceneJudge())
    assert wrong.image is images[1] and wrong.score < 1
    (unjudged,) = best_of_each(images, ["a photograph"], SceneJudge())
    assert unjudged.image is images[0] and unjudged.score is None


def test_marks_break_ties_of_totals():
    almost = Judgement((Mark("colour", 1), Mark("count", 0)), {"all": 0.0})
    nothing = Judgement((Mark("colour", 0), Mark("count", 0)), {"all": 0.0})
    right = Judgement((Mark("colour", 1), Mark("count", 1)), {"all": 1.0})
    assert overall(right) > overall(almost) > overall(nothing)
    assert overall(Judgement()) is None
    assert overall(Judgement((Mark("skill", 0.5),))) == overall(Judgement(totals={"clip": 0.5})) == 0.5


def test_a_judge_is_named_as_in_a_suite():
    config = SamplingConfig(best_of={"judge": {"clip": {"clip": "somewhere"}}})
    assert config.best_of == BestOf(n=4, judge=Score(name="clip", options={"clip": "somewhere"}))
    assert judge_of(BestOf()).name == "scene"


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("tidy", "unknown judge 'tidy'; known: scene, clip"),
        ({"cmmd": {"reference": "here"}}, "compares sets of images"),
        ("imagereward", "needs the package image-reward"),
    ],
)
def test_what_cannot_choose_is_refused(tmp_path, monkeypatch, judge, words):
    (tmp_path / "here").mkdir()
    for number in range(4):
        scene(RED).save(tmp_path / "here" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"sample\.best_of\.judge") as told:
        judge_of(BestOf(judge=judge))
    assert words in str(told.value)
