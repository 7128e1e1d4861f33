import numpy as np
import pytest
from PIL import Image

from rasterloom.filtering.judges.base import SetJudge, SuitePrompt
from rasterloom.filtering.judges.registry import JUDGES, identity_of, make_judges
from rasterloom.recipe.filtering import Score


def make(name, **options):
    (judge,) = make_judges([Score(name=name, options=options)])
    return judge


def test_the_scene_judge_gives_facts_and_says_what_it_saw(quickstart):
    scene = quickstart("scenes").draw_scene(0, (128, 128))
    prompts = [SuitePrompt("a", scene.caption), SuitePrompt("b", "a cat on a mat")]
    right, none = make("scene")([np.asarray(scene.image)] * 2, prompts)
    assert right.totals == {"all": 1} and {mark.score for mark in right.marks} == {1}
    assert scene.shapes[0] in right.note
    assert (none.marks, none.totals) == ((), {}) and "is no drawn scene" in none.note


def test_a_clip_and_those_trained_on_preferences_give_the_cosine(clip):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    prompts = [SuitePrompt("a", "cat"), SuitePrompt("b", "dog")]
    scores = {
        "clip": make("clip", clip=str(clip)),
        "hpsv2": make("hpsv2", weights=str(clip)),
        "pickscore": make("pickscore", weights=str(clip)),
    }
    found = {name: [one.totals[name] for one in judge(images, prompts)] for name, judge in scores.items()}
    assert found["clip"] == pytest.approx(found["hpsv2"])
    assert found["clip"] == pytest.approx(found["pickscore"])
    assert found["clip"][0] != found["clip"][1] and all(-1 <= score <= 1 for score in found["clip"])


def test_judges_of_sets_tell_near_images_from_far_ones(clip, tmp_path):
    rng = np.random.default_rng(0)
    flat = [np.full((32, 32, 3), 20 * n, np.uint8) for n in range(12)]
    noise = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(12)]
    for number, image in enumerate(flat[::2]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    for name in ("clip-fd", "cmmd"):
        judge = make(name, reference=str(tmp_path), clip=str(clip))
        assert isinstance(judge, SetJudge)
        reference = judge.reference()
        near, far = (
            judge.distance(np.array([one.embedding for one in judge(images, [])], np.float32), reference)
            for images in (flat[1::2], noise)
        )
        assert len(reference) == 6 and 0 <= near < far


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("nobody", {}, f"unknown judge 'nobody'; known: {', '.join(JUDGES)}"),
        ("scene", {"size": 3}, "the judge scene has no option 'size'; known: none"),
        ("vqa", {}, "the judge vqa needs the option 'url'"),
        ("vqa", {"url": "http://a.test", "model": 3}, "takes text"),
        ("hpsv2", {"weights": "HPS_v2.1_compressed.pt"}, "takes a folder in transformers' format"),
        ("pickscore", {"weights": "nowhere"}, "nowhere is none"),
        ("imagereward", {}, "needs the package image-reward"),
        ("fid", {"reference": "photos"}, "needs the Inception network"),
        ("cmmd", {"reference": "/no/such/folder"}, "takes a folder of images as reference; /no/such/folder"),
        ("clip", {"clip": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_what_cannot_judge_is_refused_with_what_is_missing(name, options, reason):
    with pytest.raises(ValueError, match=reason):
        make(name, **options)


def test_a_judge_is_known_by_version_options_and_weights(clip):
    one = identity_of([make("vqa", url="http://a.test/v1", model="a"), make("scene")])
    other = identity_of([make("vqa", url="http://a.test/v1", model="b"), make("scene")])
    assert one["scene"] == other["scene"] == "1"
    assert one["vqa"] != other["vqa"]
    assert identity_of([make("clip", clip=str(clip))])["clip"].startswith("1:")
    with pytest.raises(ValueError, match="the judge scene is named twice"):
        make_judges([Score(name="scene")] * 2)


def test_a_plugin_may_take_the_name_of_a_judge_that_is_refused(monkeypatch):
    class Own:
        name, version, digest = "fid", "7", ""

        def __call__(self, images, prompts):
            return []

    class Found:
        source = "own 1.0"

        def load(self, *_):
            return Own

        def check(self, *_):
            pass

    monkeypatch.setattr(
        "rasterloom.utils.plugins.find", lambda group, name: Found() if name == "fid" else None
    )
    judge = make("fid")
    assert judge.version == "7" and identity_of([judge]) == {"fid": "7:own 1.0"}
