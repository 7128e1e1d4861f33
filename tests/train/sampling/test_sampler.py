import numpy as np
import pytest
import torch

from rasterloom.train.model.packed_lm import build_model, save_model
from rasterloom.train.sampling.sampler import _choose, open_sampler
from rasterloom.utils.random_streams import stream_generator

PROMPTS = [[0, 30, 31, 32, 16], [0, 33, 16], [0, 34, 35, 16], [0, 36, 16]]
SIZES = [(96, 32), (32, 64), (96, 32), (96, 32)]


@pytest.fixture
def sampler(tmp_path, profile):
    model = build_model("tiny", profile)
    with torch.no_grad():  # a head far from uniform, so that errors show
        model.lm_head.weight.mul_(20)
    save_model(model, profile, tmp_path / "model")
    return open_sampler(tmp_path / "model", profile)


def plain(sampler, number, prompt, size, *, cfg, temperature, top_k, seed=0):
    """Lumina-mGPT's way, one token at a time, without cache or batch: logits of the whole vocabulary,
    guidance (from the third token after boi on), structure, top-k, temperature. Only the size is given."""
    p = sampler.profile
    width, height = (side // p.downsample for side in size)
    image = [p.boi, p.grid0 + size[1] // 32, p.grid0 + size[0] // 32]
    luck = iter(stream_generator("sample", seed=seed, number=number).random(width * height))
    for k in range(height * (width + 1) + 1):  # k tokens after the size
        logits = []
        for context in (prompt + image, image):
            with torch.no_grad():
                hidden = sampler.model.model(input_ids=torch.tensor([context]), use_cache=False)
            logits.append(sampler.model.lm_head(hidden.last_hidden_state[0, -1]).detach().float())
        with_prompt, without = logits
        guided = cfg * (with_prompt - without) + without if cfg != 1 else with_prompt
        allowed = torch.full_like(guided, -torch.inf)
        if k + 1 == (width + 1) * height + 1:
            allowed[p.eoi] = 0
        elif (k + 1) % (width + 1) == 0:
            allowed[p.eol] = 0
        else:
            allowed[p.image0 : p.image0 + p.codebook_size] = 0
        scores = guided + allowed
        least = scores.topk(min(top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf) / temperature
        choices = int((scores > -torch.inf).sum())
        if choices == 1:
            token = int(scores.argmax())
            if p.image0 <= token < p.image0 + p.codebook_size:
                next(luck)
        else:
            mass = scores.double().softmax(dim=0).cumsum(dim=0)
            token = int(torch.searchsorted(mass, next(luck) * mass[-1], right=True))
        image.append(token)
    return image


@pytest.mark.parametrize(
    ("cfg", "temperature", "top_k"),
    [(3.0, 1.0, 1), (1.0, 1.0, 2000), (4.0, 0.7, 5)],
)
def test_cache_batch_and_sizes_draw_what_a_plain_loop_draws(sampler, cfg, temperature, top_k):
    settings = {"cfg": cfg, "temperature": temperature, "top_k": top_k, "seed": 7}
    p = sampler.profile
    expected = [plain(sampler, n, PROMPTS[n], SIZES[n], **settings) for n in range(len(SIZES))]
    told = []
    for batch in (2, 3, 32):
        told.clear()
        sampler.batch = batch
        drawn = sampler.sample(PROMPTS, SIZES, **settings, on_tokens=lambda *at: told.append(at))
        for size, codes, whole in zip(SIZES, drawn, expected, strict=True):
            assert codes.dtype == np.int32
            # The plain loop's image as a whole: boi, size, codes, an eol after every row, eoi.
            rows = [[*(p.image0 + row), p.eol] for row in codes]
            head = [p.boi, p.grid0 + size[1] // 32, p.grid0 + size[0] // 32]
            assert [*head, *np.concatenate(rows).tolist(), p.eoi] == whole
        assert len({codes.tobytes() for codes in drawn}) > 1
        total = sum(codes.size for codes in drawn)
        assert told[-1] == (total, total) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_part_of_many_images_is_drawn_as_among_all(sampler):
    settings = {"cfg": 2.0, "temperature": 1.0, "top_k": 2000, "seed": 3}
    whole = sampler.sample(PROMPTS, SIZES, **settings)
    sampler.first = 2
    part = sampler.sample(PROMPTS[2:], SIZES[2:], **settings)
    assert [codes.tolist() for codes in part] == [codes.tolist() for codes in whole[2:]]
    sampler.first = 0
    assert sampler.sample(PROMPTS[2:], SIZES[2:], **settings)[0].tolist() != part[0].tolist()


def test_an_image_in_the_prompt_is_seen_and_left_out_of_the_unguided_context(sampler):
    """Editing: the context of guidance begins at the last boi, whatever pictures stand before it."""
    p = sampler.profile
    picture = [p.boi, p.grid0 + 1, p.grid0 + 1, *[4, 9, p.eol] * 2, p.eoi]
    prompts = [[0, 30, *picture, 16], [0, 31, 32, 33, *picture, 16]]
    drawn = sampler.sample(prompts, [(32, 64)] * 2, cfg=3.0, top_k=6, seed=1)
    for number, (prompt, codes) in enumerate(zip(prompts, drawn, strict=True)):
        whole = plain(sampler, number, prompt, (32, 64), cfg=3.0, temperature=1.0, top_k=6, seed=1)
        assert [token for token in whole[3:-1] if token != p.eol] == (p.image0 + codes).ravel().tolist()
    assert (
        drawn[0].tolist() != sampler.sample([[0, 30, 16]], [(32, 64)], cfg=3.0, top_k=6, seed=1)[0].tolist()
    )


TEXT = [*range(30, 48)]


def answered(sampler, number, prompt, *, temperature, top_k, seed, most):
    """A text answer, one token at a time, from the logits of the whole vocabulary."""
    ids, luck = list(prompt), stream_generator("sample", seed=seed, number=number).random(most)
    for at in range(most):
        with torch.no_grad():
            hidden = sampler.model.model(input_ids=torch.tensor([ids]), use_cache=False)
        logits = sampler.model.lm_head(hidden.last_hidden_state[0, -1]).detach().float()
        order = torch.tensor([*TEXT, sampler.profile.sep])
        allowed = logits[order]
        least = allowed.topk(min(top_k, len(order))).values[-1]
        mass = (allowed.masked_fill(allowed < least, -torch.inf) / temperature).double().softmax(0).cumsum(0)
        token = int(order[torch.searchsorted(mass, luck[at] * mass[-1], right=True)])
        if token == sampler.profile.sep:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 1), (0.8, 10)])
def test_texts_are_those_of_a_plain_loop(sampler, temperature, top_k):
    p = sampler.profile
    picture = [p.boi, p.grid0 + 1, p.grid0 + 1, *[4, 9, p.eol] * 2, p.eoi]
    prompts = [[0, 30, *picture, 16], [0, 31, 16], [0, 32, 33, 34, 16], [0, *picture, 35, 16]]
    settings = {"temperature": temperature, "top_k": top_k, "seed": 2}
    expected = [answered(sampler, n, prompt, **settings, most=20) for n, prompt in enumerate(prompts)]
    assert set().union(*expected) <= set(TEXT)  # no structure, whatever the model would like
    for batch in (2, 32):
        sampler.batch = batch
        assert sampler.answer(prompts, TEXT, **settings, max_tokens=20) == expected


def test_a_text_ends_where_the_model_ends_it_or_where_it_is_cut_off(sampler, profile):
    with torch.no_grad():
        sampler.model.lm_head.weight[profile.sep] = 0
    assert [len(answer) for answer in sampler.answer(PROMPTS[:2], TEXT, top_k=1, max_tokens=5)] == [5, 5]
    with torch.no_grad():
        sampler.model.lm_head.weight.zero_()
        sampler.model.lm_head.weight[profile.sep] = 1  # hidden states sum to about nothing: either may win
    answers = sampler.answer(PROMPTS, TEXT, top_k=100, max_tokens=30, seed=1)
    assert all(profile.sep not in answer for answer in answers)
    assert min(map(len, answers)) < 30


def test_an_image_depends_on_its_seed_and_place_only(sampler):
    together = sampler.sample(PROMPTS, SIZES, cfg=2.0, seed=5)
    sampler.batch = 1
    alone = sampler.sample(PROMPTS, SIZES, cfg=2.0, seed=5)
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


def test_a_batch_that_a_gpu_does_not_hold_is_halved_and_stays_so(sampler, monkeypatch):
    settings = {"cfg": 2.0, "temperature": 1.0, "top_k": 2000, "seed": 3}
    whole = sampler.sample(PROMPTS, SIZES, **settings)
    sizes, draw = [], sampler._draw

    def limited(decoders, contexts, grids, *args):
        sizes.append(len(grids))
        if len(grids) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return draw(decoders, contexts, grids, *args)

    monkeypatch.setattr(sampler, "_draw", limited)
    for _ in range(2):
        drawn = sampler.sample(PROMPTS, SIZES, **settings)
        assert [codes.tolist() for codes in drawn] == [codes.tolist() for codes in whole]
    assert sizes == [4, 2, *([1] * 8)]


def test_in_bf16_positions_are_as_exact_as_in_training(tmp_path, profile):
    """DeepSpeed rounds the weights alone. Rounded, the rotary frequencies turn by radians too much."""
    save_model(build_model("tiny", profile), profile, tmp_path / "model")
    half, whole = (open_sampler(tmp_path / "model", profile, bf16=bf16).model for bf16 in (True, False))
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(half.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(("free_gib", "room"), [(100, 32), (16, 13), (0.1, 1)])
def test_the_cache_of_a_batch_is_cut_to_what_is_free(free_gib, room, sampler, monkeypatch):
    """A megabyte a token: with and without its prompt an image of 512 tokens takes a gibibyte."""
    monkeypatch.setattr("rasterloom.train.sampling.sampler.cache_bytes", lambda config, width: 2**20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gib * 2**30), 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30 - 2**28)
    sampler.device = torch.device("cuda")
    assert sampler._room(2 * 512) == room
