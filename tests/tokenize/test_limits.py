import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.crop import plan_crop, seed_of
from rasterloom.tokenize.limits import crop_seed, cut_share, image_fault, length_fault, names_size

OLD = Tokenize(min_side=0, max_cut=1)

sides = st.integers(1, 5000)


def fault(size, target=512, **limits):
    return image_fault(size, plan_crop(size, bucket_sizes(target)), OLD.model_copy(update=limits))


def test_images_of_one_conversation_share_a_seed_unless_told_otherwise():
    assert {crop_seed("k", Tokenize(), image) for image in range(3)} == {seed_of("k", 0)}
    own = [crop_seed("k", Tokenize(shared_crop=False), image) for image in range(3)]
    assert len(set(own)) == 3
    assert own[0] == seed_of("k", 0)
    assert own[1] != crop_seed("other", Tokenize(shared_crop=False), 1)
    assert crop_seed("k", Tokenize(seed=1)) == seed_of("k", 1)
    assert crop_seed("k", Tokenize(crop="center"), 2) is None


def test_shared_seeds_cut_images_alike_and_own_seeds_do_not():
    def boxes(config):
        buckets = bucket_sizes(512)
        return {plan_crop((640, 480), buckets, seed=crop_seed("k", config, image)).box for image in range(4)}

    assert len(boxes(Tokenize())) == 1
    assert len(boxes(Tokenize(shared_crop=False))) > 1


@given(sides, sides)
def test_no_limit_refuses_nothing(width, height):
    assert fault((width, height)) is None


@pytest.mark.parametrize(
    ("size", "share", "told"),
    [
        ((512, 512), 1, None),
        ((511, 511), 1, "511 x 511 pixels are too few: the bucket 512 x 512 would enlarge them 1.0 times"),
        ((128, 128), 0.25, None),
        ((127, 127), 0.25, r"enlarge them 4.0 times (tokenize.min_side 0.25 allows 4)"),
        ((1, 1), 0.25, "enlarge them 512.0 times"),
        ((5000, 100), 0.25, None),  # 256 high
        ((5000, 60), 0.25, "60 pixels are too few: the bucket 1024 x 256 would enlarge them 4.3 times"),
    ],
)
def test_small_images_are_refused(size, share, told):
    found = fault(size, min_side=share)
    assert found is None if told is None else told in found


@pytest.mark.parametrize(
    ("size", "limit", "told"),
    [
        ((512, 512), 0, None),
        ((4000, 1000), 0.5, None),
        ((8000, 1000), 0.5, None),  # half of it is just what 4 : 1 shows
        (
            (8100, 1000),
            0.5,
            "to 1024 x 256 would cut away 51% of 8100 x 1000 pixels (tokenize.max_cut is 0.5)",
        ),
        ((1000, 8100), 0.5, "to 256 x 1024 would cut away 51%"),
        ((640, 480), 0, "cut away 4%"),
    ],
)
def test_crops_that_lose_much_are_refused(size, limit, told):
    found = fault(size, max_cut=limit)
    assert found is None if told is None else told in found


@given(sides, sides, st.sampled_from([64, 256, 512]))
def test_what_is_cut_is_what_the_bucket_does_not_show(width, height, target):
    plan = plan_crop((width, height), bucket_sizes(target))
    across, down = plan.bucket[0] / width, plan.bucket[1] / height
    share = cut_share(plan)
    assert 0 <= share < 1
    # Sides are rounded to pixels: of a side of n pixels that is up to 1 / n.
    assert share == pytest.approx(1 - min(across, down) / max(across, down), abs=2 / min(plan.bucket) + 0.01)


def test_samples_up_to_the_limit_pass():
    config = Tokenize(max_tokens=100)
    assert length_fault(100, config) is None
    assert length_fault(101, config) == "length: 101 tokens, more than tokenize.max_tokens 100"
    assert length_fault(10**9, Tokenize()) is None


def test_the_share_of_prompts_with_a_size_is_kept():
    keys = [str(number) for number in range(4000)]
    assert all(names_size(key, Tokenize()) for key in keys)
    assert not any(names_size(key, Tokenize(size_in_prompt=0)) for key in keys)
    most = [names_size(key, Tokenize(size_in_prompt=0.9)) for key in keys]
    assert 0.88 < sum(most) / len(most) < 0.92
    assert most != [names_size(key, Tokenize(size_in_prompt=0.9, seed=1)) for key in keys]
    half = Tokenize(size_in_prompt=0.5)
    assert [number for number in range(12) if names_size(str(number), half)] == [
        0,
        1,
        4,
        5,
        6,
        8,
        9,
        11,
    ]  # pinned
