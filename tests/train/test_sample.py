import numpy as np
import pytest
import torch

from rasterloom.train.model import build_model, save_model
from rasterloom.train.sample import _choose, open_sampler

PROMPTS = [[0, 30, 31, 32, 16], [0, 33, 16], [0, 34, 35, 16], [0, 36, 16]]
SIZES = [(96, 32), (32, 64), (96, 32), (96, 32)]


@pytest.fixture
def sampler(tmp_path, profile):
    model = build_model("tiny", profile)
    with torch.no_grad():  # a head far from uniform, so that errors show
        model.lm_head.weight.mul_(20)
    save_model(model, profile, tmp_path / "model")
    return open_sampler(tmp_path / "model", profile)


def greedy(sampler, prompt, size, cfg):
    """The same, without cache or batch: the most likely code each time."""
    p = sampler.profile
    width, height = (side // p.downsample for side in size)
    image = [p.boi, p.grid0 + size[1] // 32, p.grid0 + size[0] // 32]
    codes = []
    for k in range(width * height):
        logits = []
        for context in (prompt + image, image):
            ids = torch.tensor([context])
            with torch.no_grad():
                hidden = sampler.model.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
                logits.append(sampler.model.lm_head(hidden)[p.image0 : p.image0 + p.codebook_size])
        with_prompt, without = logits
        codes.append(int((cfg * (with_prompt - without) + without).argmax()))
        image = [*image, p.image0 + codes[-1], *([p.eol] if (k + 1) % width == 0 else [])]
    return np.array(codes).reshape(height, width)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_cache_batch_and_guidance_draw_what_a_plain_loop_draws(sampler, cfg):
    drawn = sampler.sample(PROMPTS, SIZES, cfg=cfg, top_k=1)
    for prompt, size, codes in zip(PROMPTS, SIZES, drawn, strict=True):
        assert codes.shape == (size[1] // 16, size[0] // 16)
        assert codes.dtype == np.int32
        assert codes.tolist() == greedy(sampler, prompt, size, cfg).tolist()
    assert len({codes.tobytes() for codes in drawn}) > 1


def test_an_image_depends_on_its_seed_and_place_only(sampler):
    together = sampler.sample(PROMPTS, SIZES, cfg=2.0, seed=5)
    alone = sampler.sample(PROMPTS, SIZES, cfg=2.0, seed=5, batch=1)
    other = sampler.sample(PROMPTS, SIZES, cfg=2.0, seed=6)
    assert [a.tolist() for a in together] == [a.tolist() for a in alone]
    assert [a.tolist() for a in together] != [a.tolist() for a in other]


def test_codes_are_drawn_as_likely_as_the_model_says():
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).expand(30_000, 3)
    luck = torch.from_numpy(np.random.default_rng(0).random(30_000))
    shares = [
        torch.bincount(_choose(logits, luck, t, k), minlength=3) / 30_000
        for t, k in ((1, 3), (1, 2), (0.5, 3))
    ]
    assert shares[0].tolist() == pytest.approx([0.1, 0.6, 0.3], abs=0.01)
    assert shares[1].tolist() == pytest.approx([0, 2 / 3, 1 / 3], abs=0.01)
    assert shares[2].tolist() == pytest.approx([0.01 / 0.46, 0.36 / 0.46, 0.09 / 0.46], abs=0.01)


def test_a_wrong_size_is_named(sampler):
    with pytest.raises(ValueError, match="40x32 is not a multiple of 32"):
        sampler.sample([[0, 16]], [(40, 32)])
    with pytest.raises(ValueError, match="1 prompts, but 2 sizes"):
        sampler.sample([[0, 16]], [(32, 32), (32, 32)])
