"""The drawn scenes: captions say what is drawn, crops keep it, and each is where it is said to be."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def load_scenes() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "quickstart" / "scenes.py"
    spec = importlib.util.spec_from_file_location("quickstart_scenes", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


scenes = load_scenes()


@pytest.fixture(scope="module")
def drawn() -> list:
    return list(scenes.scenes(1000, seed=7))


def coloured(image: Image.Image) -> np.ndarray:
    """Where an image is not grey: bool [h, w]."""
    pixels = np.asarray(image).astype(int)
    return np.ptp(pixels, axis=2) > 40


def middle(image: Image.Image, ratio: float) -> Image.Image:
    w, h = image.size
    cw, ch = min(w, round(h * ratio)), min(h, round(w / ratio))
    left, top = (w - cw) // 2, (h - ch) // 2
    return image.crop((left, top, left + cw, top + ch))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40))
def test_a_scene_is_a_function_of_its_seed(seed):
    one, two = scenes.draw_scene(seed), scenes.draw_scene(seed)
    assert one.image.mode == "RGB"
    assert one.image.tobytes() == two.image.tobytes()
    assert (one.caption, one.colours, one.shapes) == (two.caption, two.colours, two.shapes)


def test_seeds_of_scenes_do_not_overlap():
    first = [scene.image.tobytes() for scene in scenes.scenes(30, seed=0)]
    assert len(set(first)) >= 28  # there are so few scenes that some come twice
    assert first != [scene.image.tobytes() for scene in scenes.scenes(30, seed=1)]


def test_a_given_size_changes_the_frame_and_not_the_story():
    own, square = scenes.draw_scene(3), scenes.draw_scene(3, size=(128, 96))
    assert square.image.size == (128, 96)
    assert own.caption == square.caption


def test_captions_name_every_colour_and_shape(drawn):
    for scene in drawn:
        assert len(scene.colours) == len(scene.shapes) in (1, 2)
        for colour, shape in zip(scene.colours, scene.shapes, strict=True):
            assert f"{colour} {shape}" in scene.caption
    words = {word.rstrip("s") for scene in drawn for word in scene.caption.split()}
    plain = {"a", "two", "three", "small", "large", "left", "right", "of", "above", "below"}
    assert words == plain | set(scenes.COLOURS) | set(scenes.SHAPES)


def test_shares_of_stories_and_frames(drawn):
    single = sum(scene.caption.startswith("a ") and len(scene.colours) == 1 for scene in drawn)
    assert 200 < single < 280
    ratios = Counter(round(scene.image.width / scene.image.height, 2) for scene in drawn)
    assert set(ratios) == {1.0, 1.67, 0.6, 3.0, 0.33}
    assert 570 < ratios[1.0] < 670 and ratios[1.67] > 130 and ratios[0.6] > 130
    assert all(64 <= min(scene.image.size) <= 128 for scene in drawn)


@pytest.mark.parametrize("crop", [2.0, 0.5])
def test_shapes_survive_the_crop_to_a_neighbouring_bucket(drawn, crop):
    """At a target of 64 the bucket next to 5:3 is 2:1; 3:1 has a bucket of its own at every target."""
    for scene in drawn:
        w, h = scene.image.size
        if (w > h) == (crop > 1) and w != h and max(w, h) < 2 * min(w, h):
            kept = coloured(middle(scene.image, crop)).sum()
            # Large shapes end where the crop does: half a pixel of their smooth edge may go.
            assert kept >= 0.99 * coloured(scene.image).sum(), scene.caption


def test_shapes_lie_on_whole_cells():
    """One caption, one frame: wherever a shape lies, it is the same pixels."""
    cut = {}
    for seed in range(3000):
        scene = scenes.draw_scene(seed, size=(128, 128))
        plain = scene.image.getpixel((0, 0)) == (scenes.BACKGROUND,) * 3
        if scene.caption == "a green star" and plain:
            mask = coloured(scene.image)
            ys, xs = np.nonzero(mask)
            assert (xs.min() + xs.max() + 1) % 16 == 0  # the middle between columns is a border of cells
            top, left = ys.min(), xs.min()
            cut[(left, top)] = np.asarray(scene.image)[top + 2 : top + 40, left + 2 : left + 40].tobytes()
    assert len(cut) > 5 and len(set(cut.values())) == 1


def test_places_are_as_said(drawn):
    palette = np.array(list(scenes.COLOURS.values()), dtype=float)
    checked = Counter()
    for scene in drawn:
        if len(scene.colours) < 2:
            continue
        pixels = np.asarray(scene.image).astype(float)
        nearest = np.linalg.norm(pixels[..., None, :] - palette, axis=-1).argmin(-1)
        centres = []
        for colour in scene.colours:
            mask = coloured(scene.image) & (nearest == list(scenes.COLOURS).index(colour))
            centres.append(np.argwhere(mask).mean(0))
        (y1, x1), (y2, x2) = centres
        for words, holds in {
            " left of ": x1 < x2, " right of ": x1 > x2, " above ": y1 < y2, " below ": y1 > y2
        }.items():  # fmt: skip
            if words in scene.caption:
                assert holds, scene.caption
                checked[words] += 1
    assert len(checked) == 4 and min(checked.values()) > 20
