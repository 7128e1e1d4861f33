"""The judge of drawn scenes on images whose facts are known, through the codec and back."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rasterloom.filtering.scenes.grammar import BACKGROUND, COLOURS, RELATIONS, SHAPES, read_caption
from rasterloom.filtering.scenes.judge import facts_of, judge
from rasterloom.filtering.scenes.objects import find_objects
from rasterloom.filtering.scenes.outlines import mask_of
from rasterloom.filtering.scenes.suite import scene_prompts
from rasterloom.tokenize.codecs.load import load_codec

RIGHT = 0.98
FRAMES = ((128, 128), (160, 96), (96, 160))


@pytest.fixture(scope="module")
def codec():
    return load_codec("mini", threads=1)


@pytest.fixture(scope="module")
def scenes(codec, quickstart):
    """Scenes as drawn and as decoded, with their captions; the held-out ones among them."""
    draw_scene = quickstart("scenes").draw_scene
    drawn = [draw_scene(5_000_000 + n, FRAMES[n % 3]) for n in range(180)]
    drawn += [
        draw_scene(6_000_000 + n, (128, 128), read_caption(prompt))
        for n, prompt in enumerate(scene_prompts())
    ]
    plain = [(np.array(scene.image), scene.caption) for scene in drawn]
    coded = [(codec.decode(codec.encode(image[None]))[0], caption) for image, caption in plain]
    return {"plain": plain, "coded": coded}


@pytest.fixture(params=["plain", "coded"])
def images(request, scenes):
    return scenes[request.param]


def test_facts_of_drawn_scenes_hold(images):
    asked, right, wrong = Counter(), Counter(), []
    for image, caption in images:
        verdict = judge(image, caption)
        asked.update(verdict.facts.keys())
        right.update(skill for skill, holds in verdict.facts.items() if holds)
        if not verdict.all_right:
            wrong.append((caption, [str(one) for one in verdict.seen]))
    assert min(asked.values()) >= 60 and len(asked) == 6
    for skill, times in asked.items():
        assert right[skill] >= RIGHT * times, (skill, wrong)


def other(words, word):
    words = list(words)
    return words[(words.index(word) + 1) % len(words)]


def lies(caption):
    """The caption with one thing in it false, by the skill that has to see it."""
    first, *rest = caption.groups
    kind = "two objects" if rest else "single object"
    yield kind, replace(caption, groups=(replace(first, shape=other(SHAPES, first.shape)), *rest))
    colours = [c for c in COLOURS if c not in [g.colour for g in rest]]
    yield "colour", replace(caption, groups=(replace(first, colour=other(colours, first.colour)), *rest))
    yield "count", replace(caption, groups=(replace(first, number=first.number % 3 + 1), *rest))
    yield (
        "size",
        replace(caption, groups=(replace(first, size="large" if first.size == "small" else "small"), *rest)),
    )
    if caption.relation:
        yield "position", replace(caption, relation=other(RELATIONS, caption.relation))


def test_false_captions_are_found_false_by_their_skill(images):
    asked, found, missed = Counter(), Counter(), []
    for image, caption in images:
        seen = find_objects(image)
        for skill, lie in lies(read_caption(caption)):
            facts = facts_of(lie, seen)
            asked[skill] += 1
            found[skill] += not facts[skill]
            if facts[skill]:
                missed.append((caption, str(lie)))
    assert min(asked.values()) >= 60 and len(asked) == 6
    for skill, times in asked.items():
        assert found[skill] >= RIGHT * times, (skill, missed)


def painted(codec, *masks):
    """An image of red shapes on the scenes' grey, through the codec."""
    image = Image.new("RGB", (128, 128), (BACKGROUND,) * 3)
    for mask in masks:
        image.paste(COLOURS["red"], (0, 0), mask)
    return codec.decode(codec.encode(np.array(image)[None]))[0]


def blob(rng):
    """A round of random radius: nothing that has a name."""
    turns = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    radius = 1 + sum(
        rng.normal(0, 0.28 / k**0.5) * np.cos(k * turns + rng.uniform(0, 7)) for k in range(2, 7)
    )
    radius = np.clip(radius, 0.25, 2) * rng.uniform(16, 36)
    mask = Image.new("L", (512, 512))
    corners = [
        (256 + 4 * r * math.cos(t), 256 + 4 * r * math.sin(t)) for r, t in zip(radius, turns, strict=True)
    ]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return mask.reduce(4)


def shape_of(image):
    """Shapes that the judge finds to be there, of all."""
    facts = {shape: judge(image, f"a red {shape}").facts for shape in SHAPES}
    return [shape for shape, held in facts.items() if held["single object"]]


def test_blobs_have_no_shape(codec):
    rng = np.random.default_rng(1)
    named = [shape_of(painted(codec, blob(rng))) for _ in range(100)]
    assert sum(map(bool, named)) <= 2


@pytest.mark.parametrize("radius", [16, 24, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_half_finished_shapes_are_none(codec, shape, radius):
    whole = mask_of(shape, (128, 128), (64, 64), radius)
    assert shape_of(painted(codec, whole)) == [shape]
    left = whole.copy()
    left.paste(0, (64, 0, 128, 128))
    rest = whole.copy()
    rest.paste(0, (64, 64, 128, 128))
    assert shape not in shape_of(painted(codec, left))
    assert shape_of(painted(codec, rest)) == []
    wide = whole.resize((128, 85)), (0, 21)  # half as wide again as high
    flat = Image.new("L", (128, 128))
    flat.paste(*wide)
    assert shape_of(painted(codec, flat)) == []


def test_shapes_that_touch_are_not_two(codec):
    pair = [mask_of("circle", (128, 128), (x, 64), 24) for x in (44, 80)]
    facts = judge(painted(codec, *pair), "two red circles").facts
    assert facts == {"single object": False, "count": False, "colour": True}


def test_a_shape_too_many_spoils_the_count_alone(codec):
    pair = [mask_of("circle", (128, 128), (x, 64), 16) for x in (36, 92)]
    facts = judge(painted(codec, *pair), "a small red circle").facts
    assert facts == {"single object": True, "count": False, "colour": True, "size": True}


def test_an_object_that_nobody_asked_for_spoils_the_count_alone():
    image = Image.new("RGB", (128, 128), (BACKGROUND,) * 3)
    for colour, shape, x, y in (
        ("red", "circle", 28, 40),
        ("blue", "square", 90, 40),
        ("green", "star", 60, 96),
    ):
        image.paste(COLOURS[colour], (0, 0), mask_of(shape, (128, 128), (x, y), 16))
    facts = judge(np.asarray(image), "a red circle left of a blue square").facts
    assert facts == {"two objects": True, "count": False, "colour": True, "position": True}


@pytest.mark.parametrize("name", ["noise", "empty", "red", "black"])
def test_images_of_nothing_hold_nothing(name):
    rng = np.random.default_rng(2)
    tones = {"empty": (BACKGROUND,) * 3, "red": COLOURS["red"], "black": (0, 0, 0)}
    image = rng.integers(0, 256, (128, 128, 3), np.uint8)
    if name in tones:
        image[:] = tones[name]
    for prompt in scene_prompts()[::10]:
        facts = judge(image, prompt).facts
        assert facts and not any(facts.values())


def test_colours_next_to_the_palette_have_no_name():
    image = Image.new("RGB", (128, 128), (BACKGROUND,) * 3)
    image.paste((240, 130, 140), (0, 0), mask_of("circle", (128, 128), (64, 64), 24))  # pink
    verdict = judge(np.asarray(image), "a red circle")
    assert verdict.facts == {"single object": True, "count": True, "colour": False}
    assert str(verdict.seen[0]) == "middle-sized odd-coloured circle"


def test_a_diagonal_counts_by_its_longer_way():
    image = Image.new("RGB", (128, 128), (BACKGROUND,) * 3)
    image.paste(COLOURS["red"], (0, 0), mask_of("circle", (128, 128), (30, 50), 16))
    image.paste(COLOURS["blue"], (0, 0), mask_of("square", (128, 128), (98, 78), 16))
    holds = {
        r: judge(np.asarray(image), f"a red circle {r} a blue square").facts["position"] for r in RELATIONS
    }
    assert holds == {"left of": True, "right of": False, "above": False, "below": False}


def test_a_prompt_outside_the_grammar_has_no_judgement():
    verdict = judge(np.zeros((64, 64, 3), np.uint8), "a cat on a mat")
    assert verdict.facts == {} and verdict.all_right is None
    assert verdict.note.startswith("'a cat on a mat' is no drawn scene; one is a, two or three")
