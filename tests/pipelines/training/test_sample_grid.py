import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.filtering.scenes.suite import scene_prompts
from rasterloom.pipelines.training import sample_grid
from rasterloom.pipelines.training.suite_images import judged, prompts_of
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.suites import SceneSuite

RED = (215, 38, 45)


def square(size=(64, 64)):
    image = Image.new("RGB", size, (228, 228, 228))
    image.paste(RED, (24, 24, 41, 41))  # 17 pixels: a diameter of 24, or 6 cells
    return image


def test_every_prompt_is_asked_at_every_size():
    config = SamplingConfig(prompts=("x", "y"))
    asked = sample_grid.image_requests(config, sample_grid.default_sizes(64))
    shown = [(a.prompt, a.width, a.height) for a in asked]
    assert shown == [(p, w, h) for p in "xy" for w, h in ((64, 64), (64, 32), (32, 64))]


@pytest.mark.parametrize("limit", [None, 1, 12, 500])
def test_a_suite_has_as_many_prompts_as_its_limit_allows(limit):
    prompts = prompts_of(SceneSuite(size=(64, 64), limit=limit))
    assert len(set(prompts)) == min(limit or 120, 120) and set(prompts) <= set(scene_prompts())
    if limit == 12:
        assert len([prompt for prompt in prompts if " of " in prompt or "above" in prompt]) > 3


def test_what_is_written(tmp_path):
    config = SamplingConfig(prompts=("a red dot",), sizes=((64, 64),))
    asked = sample_grid.image_requests(config, config.sizes)
    prompts = ["a red square", "a small red square", "a blue square above a red square"]
    of_suite = [one for seed in (3, 4) for one in judged(prompts, seed, [square()] * 3)]
    counts = sample_grid.write_samples(
        tmp_path, asked, [square()], {"64x64": [square()] * 3}, config, 8, of_suite
    )
    assert counts == {
        "images": 7,
        "suite asked": 6,
        "suite right": 2,
        "suite prompts": 3,
        "with one right": 1,
        "rows checked": 1,
        "rows line up": 1,
    }
    page = json.loads((tmp_path / "samples.json").read_text())
    skills, best = page["suite"].pop("skills"), page["suite"].pop("best")
    assert (best["right"], best["asked"]) == (1, 3) and best["low"] < 1 / 3 < best["high"]
    assert page["suite"] == {"name": "scenes", "prompts": 3, "seeds": 2}
    shares = {name: (skill["right"], skill["asked"]) for name, skill in skills.items()}
    assert shares == {
        "single object": (4, 4),
        "two objects": (0, 2),
        "count": (4, 6),
        "colour": (4, 6),
        "size": (0, 2),
        "position": (0, 2),
        "all": (2, 6),
    }
    assert skills["all"]["low"] < 2 / 6 < skills["all"]["high"]
    rows = pq.read_table(tmp_path / "suite.parquet").to_pylist()
    assert [(row["seed"], row["all_right"]) for row in rows] == [
        (3, True),
        (3, False),
        (3, False),
        (4, True),
        (4, False),
        (4, False),
    ]
    assert dict(rows[1]["facts"]) == {"single object": True, "count": True, "colour": True, "size": False}
    assert rows[1]["seen"] == "middle-sized red square"
    (tmp_path / "one.png").write_bytes(rows[0]["image"])
    assert Image.open(tmp_path / "one.png").tobytes() == square().tobytes()
    assert Image.open(tmp_path / page["images"][0]["file"]).size == (64, 64)
    grid = np.asarray(Image.open(tmp_path / page["grid"]))
    assert (grid == RED).all(axis=2).sum() > 500


def test_without_prompts_there_is_no_grid(tmp_path):
    assert sample_grid.write_samples(tmp_path, [], [], {}, SamplingConfig(), 8) == {"images": 0}
    assert json.loads((tmp_path / "samples.json").read_text())["grid"] is None
    assert not (tmp_path / "grid.png").exists()


def test_without_a_suite_there_is_none(tmp_path):
    config = SamplingConfig(prompts=("a red dot",), sizes=((64, 64),))
    counts = sample_grid.write_samples(
        tmp_path, sample_grid.image_requests(config, config.sizes), [square()], {}, config, 8
    )
    assert counts == {"images": 1}
    assert json.loads((tmp_path / "samples.json").read_text())["suite"] is None
    assert not (tmp_path / "suite.parquet").exists()
