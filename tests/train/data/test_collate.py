from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.recipe.train import Stage, Train
from rasterloom.train.data.collate import IGNORE, drop_context, heldout_draw, is_dropped, pack
from rasterloom.train.data.token_dataset import TokenSample


def sample(ids, *spans):
    return TokenSample(np.array(ids, np.int32), np.array(spans, np.int32).reshape(-1, 2))


@given(st.text(max_size=40))
def test_what_is_held_out_depends_on_the_key_alone(key):
    assert 0 <= heldout_draw(key) < 1
    assert heldout_draw(key) == heldout_draw(key)


def test_shares_are_kept():
    keys = [f"key {i}" for i in range(20_000)]
    assert np.mean([heldout_draw(key) < 0.1 for key in keys]) == pytest.approx(0.1, abs=0.01)
    stages = (Stage(target=64, epochs=1), Stage(target=64, epochs=1, cfg_drop=1.0))
    train = Train(stages=stages, cfg_drop=0.2)
    first, second = train.of_stage(0), train.of_stage(1)
    dropped = np.array([[is_dropped(key, first, part=0, a_pass=p) for key in keys] for p in (0, 1)])
    assert dropped.mean() == pytest.approx(0.2, abs=0.01)
    assert (dropped[0] & dropped[1]).mean() == pytest.approx(0.04, abs=0.01)  # each pass anew
    assert all(is_dropped(key, second, part=0, a_pass=0) for key in keys[:50])


def test_dropping_leaves_the_image_all_of_it_in_the_loss(profile):
    p = profile
    image = [p.boi, p.grid0 + 1, p.grid0 + 1, 4, 5, p.eol, p.eoi]
    ids = [p.bos, 30, 31, p.sep, *image, p.sep]
    dropped = drop_context(sample(ids, (4, len(ids))), p)
    assert dropped.input_ids.tolist() == image
    assert dropped.loss_spans.tolist() == [[0, len(image)]]
    bare = drop_context(sample(ids[:-1], (4, len(ids) - 1)), p)  # a family without a separator at the end
    assert bare.input_ids.tolist() == image


def test_dropping_leaves_alone_what_is_not_one_image_in_answer_to_text(profile):
    p = profile
    image = [p.boi, p.grid0 + 1, p.grid0 + 1, 4, p.eol, p.eoi]
    two = [p.bos, *image, p.sep, *image, p.sep]
    caption = [p.bos, 30, *image, p.sep, 31, 32, p.sep]
    for given_sample in (sample(two, (8, 15)), sample(caption, (9, 12)), sample([p.bos, 30, p.sep], (1, 3))):
        assert drop_context(given_sample, p) is given_sample


def test_an_unknown_drop_policy_is_named(profile):
    with pytest.raises(ValueError, match="unknown drop policy 'all'"):
        drop_context(sample([0], (0, 1)), replace(profile, drop="all"))


def test_packing_puts_the_longest_first_and_shifts_targets_within_each():
    packed = pack([sample([1, 2], (1, 2)), sample([3, 4, 5, 6], (0, 1), (2, 4))])
    assert packed.input_ids.tolist() == [3, 4, 5, 6, 1, 2]
    assert packed.targets.tolist() == [IGNORE, 5, 6, IGNORE, 2, IGNORE]
    assert (packed.lengths, packed.order) == ([4, 2], [1, 0])


def test_packing_nothing_makes_a_token_that_does_not_count():
    packed = pack([])
    assert packed.lengths == [1]
    assert packed.targets.tolist() == [IGNORE]
    assert packed.order == []


def test_dropping_leaves_alone_other_tasks_than_text_to_image(profile):
    p = profile
    image = [p.boi, p.grid0 + 1, p.grid0 + 1, 4, 5, p.eol, p.eoi]
    n = len(image)
    edit = [p.bos, 30, *image, p.sep, *image, p.sep]  # a picture in the question, one in the answer
    turns = [p.bos, 30, p.sep, *image, p.sep, 31, p.sep, *image, p.sep]  # two answers with a picture each
    told = [p.bos, 30, *image, p.sep, 31, p.sep]  # a question about a picture
    then = [p.bos, 30, p.sep, *image, p.sep, 31, p.sep, 32, p.sep]  # a picture, then a question about it
    text = [p.bos, 30, p.sep, 31, p.sep]
    for ids, spans in (
        (edit, [(3 + n, len(edit))]),
        (turns, [(3, 4 + n), (6 + n, len(turns))]),
        (told, [(3 + n, len(told))]),
        (then, [(3, 4 + n), (6 + n, len(then))]),
        (text, [(3, 5)]),
    ):
        given_ = sample(ids, *spans)
        assert drop_context(given_, p) is given_


def test_every_answer_of_a_conversation_is_in_the_loss():
    packed = pack([sample([0, 10, 11, 12, 13, 14, 15, 16], (2, 4), (6, 8)), sample([0, 20, 21], (2, 3))])
    targets = [IGNORE, 11, 12, IGNORE, IGNORE, 15, 16, IGNORE, IGNORE, 21, IGNORE]
    assert packed.targets.tolist() == targets
