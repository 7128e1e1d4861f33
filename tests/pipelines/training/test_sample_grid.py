import json

import numpy as np
from PIL import Image

from rasterloom.pipelines.training import sample_grid
from rasterloom.recipe.sampling import ColourCheck, SamplingConfig

PALETTE = {"red": (215, 38, 45), "blue": (40, 85, 215)}


def drawn(colour, size):
    image = Image.new("RGB", size, "white")
    image.paste(PALETTE[colour], (20, 20, 44, 44))
    return image


def test_every_prompt_is_asked_at_every_size_and_every_colour_is_checked():
    check = ColourCheck(palette=PALETTE, prompts=("a {colour} dot",), draws=2, size=(64, 64))
    config = SamplingConfig(prompts=("x", "y"), colour_check=check)
    asked = sample_grid.image_requests(config, sample_grid.default_sizes(64))
    shown = [(a.prompt, a.width, a.height) for a in asked if a.colour is None]
    assert shown == [(p, w, h) for p in "xy" for w, h in ((64, 64), (64, 32), (32, 64))]
    assert [a.prompt for a in asked if a.colour] == ["a red dot"] * 2 + ["a blue dot"] * 2


def test_what_is_written(tmp_path):
    check = ColourCheck(palette=PALETTE, prompts=("a {colour} dot",), size=(64, 64))
    config = SamplingConfig(prompts=("a red dot",), sizes=((64, 64),), colour_check=check)
    asked = sample_grid.image_requests(config, config.sizes)
    images = [drawn("red", (64, 64)), drawn("red", (64, 64)), drawn("red", (64, 64))]  # the blue one is red
    counts = sample_grid.write_samples(tmp_path, asked, images, {"64x64": [images[0]] * 3}, config, 8)
    assert counts == {
        "pictures": 3,
        "colour asked": 2,
        "colour right": 1,
        "rows checked": 1,
        "rows line up": 1,
    }
    page = json.loads((tmp_path / "samples.json").read_text())
    assert page["colour"]["wrong"] == [{"prompt": "a blue dot", "drawn": "red"}]
    assert Image.open(tmp_path / page["images"][0]["file"]).size == (64, 64)
    grid = np.asarray(Image.open(tmp_path / page["grid"]))
    assert (grid == PALETTE["red"]).all(axis=2).sum() > 1000
