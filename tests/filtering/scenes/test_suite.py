import itertools
from collections import Counter

import pytest

from rasterloom.filtering.scenes.grammar import COLOURS, SHAPES, SIZES, Caption, Group, read_caption
from rasterloom.filtering.scenes.suite import is_held_out, scene_prompts


@pytest.fixture(scope="module")
def drawn(quickstart):
    draw_scene = quickstart("scenes").draw_scene
    return [read_caption(draw_scene(seed, (64, 64)).caption) for seed in range(3000)]


def composition(caption):
    things = frozenset((group.colour, group.shape) for group in caption.groups)
    return things if caption.relation else caption.groups


def test_the_suite_asks_for_what_no_scene_shows(drawn):
    prompts = [read_caption(prompt) for prompt in scene_prompts()]
    assert len(set(prompts)) == 120
    assert all(map(is_held_out, prompts)) and not any(map(is_held_out, drawn))
    assert not {composition(c) for c in prompts} & {composition(c) for c in drawn}


def test_the_suite_has_each_skill_and_word_often_enough():
    prompts = [read_caption(prompt) for prompt in scene_prompts()]
    relations = Counter(caption.relation for caption in prompts)
    assert relations == {"": 60, "left of": 15, "right of": 15, "above": 15, "below": 15}
    assert Counter(c.groups[0].number for c in prompts if not c.relation) == {1: 15, 2: 30, 3: 15}
    named = [group for caption in prompts for group in caption.groups]
    for words in (
        Counter(group.colour for group in named),
        Counter(group.shape for group in named),
        Counter(group.size for group in named),
    ):
        assert min(words.values()) >= 5
    assert scene_prompts() == scene_prompts() != scene_prompts(1)


@pytest.mark.parametrize(("colour", "shape"), itertools.product(COLOURS, SHAPES))
def test_every_word_is_still_learnt_with_every_other(colour, shape):
    """Each colour comes with each shape, in two sizes at least, and more than once."""
    ones = [Caption((Group(1, size, colour, shape),)) for size in SIZES]
    more = [Caption((Group(n, size, colour, shape),)) for n, size in ((2, "small"), (2, ""), (3, "small"))]
    assert sum(map(is_held_out, ones)) <= 1 and sum(map(is_held_out, more)) <= 2
