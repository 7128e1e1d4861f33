import json
import os
from types import SimpleNamespace

import numpy as np
from eventfiles import pictures
from PIL import Image

from rasterloom.pipelines.training.preview_images import PreviewImages, preview_of
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Stage, Train
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.prompt_templates import t2i_prompt

STAGE = Stage(target=64, steps=1)


def draw(stage, step, codes):
    """What training leaves of a step."""
    (stage / "samples").mkdir(exist_ok=True)
    record = {"step": step, "prompts": ["a dot", "two dots"], "codes": [codes.tolist()] * 2}
    (stage / "samples" / f"step-{step:08d}.json").write_text(json.dumps(record))


def test_drawings_become_images_once(tmp_path, rng=np.random.default_rng(0)):
    codec = load_codec("mini", threads=1)
    codes = rng.integers(0, codec.codebook_size, (4, 6))
    draw(tmp_path, 10, codes)
    seen = PreviewImages(tmp_path, codec, Train(stages=(STAGE,)))
    seen.update()
    names = [f"step-00000010-{n}.png" for n in (0, 1)]
    assert sorted(p.name for p in (tmp_path / "samples").glob("*.png")) == names
    expected = codec.decode(codes[None])[0]
    for name in names:
        assert (np.asarray(Image.open(tmp_path / "samples" / name)) == expected).all()
    found = pictures(tmp_path / "events")
    assert found == {("samples/a_dot", 10): (48, 32), ("samples/two_dots", 10): (48, 32)}

    times = [(tmp_path / "samples" / name).stat().st_mtime_ns for name in names]
    seen.update()
    assert [(tmp_path / "samples" / name).stat().st_mtime_ns for name in names] == times
    # A stage that went on from before has drawn the step again.
    draw(tmp_path, 10, np.zeros_like(codes))
    later = times[0] + 10**9
    os.utime(tmp_path / "samples" / "step-00000010.json", ns=(later, later))
    seen.update()
    assert (np.asarray(Image.open(tmp_path / "samples" / names[1])) != expected).any()


def test_drawings_of_one_second_are_all_there(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)  # names of event files have it
    codec = load_codec("mini", threads=1)
    for step in (2, 4):
        draw(tmp_path, step, np.zeros((4, 4), int))
        PreviewImages(tmp_path, codec, Train(stages=(STAGE,))).update()
    assert {step for _, step in pictures(tmp_path / "events")} == {2, 4}


def test_without_tensorboard_there_are_no_events(tmp_path):
    codec = load_codec("mini", threads=1)
    draw(tmp_path, 1, np.zeros((4, 4), int))
    PreviewImages(tmp_path, codec, Train(stages=(STAGE,), trackers=())).update()
    assert (tmp_path / "samples" / "step-00000001-1.png").exists()
    assert not (tmp_path / "events").exists()


def test_what_is_drawn_is_what_the_recipe_samples():
    text = SimpleNamespace(encode=lambda text: list(text.encode()))
    profile = profile_of("mini", 300)
    text = SimpleNamespace(encode=lambda text: [profile.text0 + byte for byte in text.encode()])
    config = SamplingConfig(prompts=tuple("abcdef"), cfg=2.0, temperature=0.7, top_k=9, seed=4)
    drawing = preview_of(config, (64, 32), text, profile, Tokenize())
    assert drawing.prompts == ("a", "b", "c", "d") and drawing.sizes == ((64, 32),) * 4
    assert (drawing.cfg, drawing.temperature, drawing.top_k, drawing.seed) == (2.0, 0.7, 9, 4)
    asked = text.encode(t2i_prompt(64, 32, "b"))
    assert drawing.prompt_ids[1] == (profile.bos, *asked, profile.sep)
    assert preview_of(SamplingConfig(), (64, 64), text, profile, Tokenize()) is None
    own = preview_of(config, (64, 32), text, profile, Tokenize(prompts={"t2i": "{caption}!"}))
    assert own.prompt_ids[1] == (profile.bos, *text.encode("b!"), profile.sep)
