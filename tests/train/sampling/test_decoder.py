import logging
from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.model.shapes import SIZES as SHAPES
from rasterloom.train.sampling import decoder as decoder_module
from rasterloom.train.sampling import sampler as sampler_module
from rasterloom.train.sampling.decoder import Decoder, Replays
from rasterloom.train.sampling.sampler import Sampler

PROMPTS = [[0, 30, 31, 32, 16], [0, 33, 16], [0, 34, 35, 16], [0, 36, 16], [0, *range(30, 47), 16]]
SIZES = [(96, 32), (32, 64), (96, 32), (96, 32), (64, 64)]


class Traced:
    """Captures a step as a GPU does: its operators, with the tensors and numbers that they were given."""

    def __init__(self):
        self.captured, self.replayed = 0, 0

    def __call__(self, step):
        self.captured += 1
        graph = make_fx(step)()
        taken = True  # by tracing it; a GPU captures without computing

        def replay():
            nonlocal taken
            if not taken:
                self.replayed += 1
                graph()
            taken = False

        return replay


@pytest.fixture
def sampler(profile, monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", replace(SHAPES["tiny"], layers=1))  # tracing takes long
    model = build_model("tiny", profile).eval()
    with torch.no_grad():  # a head far from uniform, so that errors show
        model.lm_head.weight.mul_(20)
    model.set_attn_implementation("sdpa")
    return Sampler(model, profile)


@pytest.mark.parametrize(("batch", "cfg"), [(2, 3.0), (32, 1.0)])
def test_replayed_steps_draw_the_images_that_are_drawn_without(batch, cfg, sampler, monkeypatch):
    settings = {"cfg": cfg, "temperature": 1.0, "top_k": 2000, "seed": 7}
    expected = sampler.sample(PROMPTS, SIZES, **settings)
    monkeypatch.setattr(decoder_module, "GRAIN", 16)
    traced = Traced()
    sampler.batch, sampler.capture = batch, lambda: traced
    drawn = sampler.sample(PROMPTS, SIZES, **settings)
    assert [codes.tolist() for codes in drawn] == [codes.tolist() for codes in expected]
    assert len({codes.tobytes() for codes in drawn}) > 1
    assert traced.captured > 0
    assert traced.replayed > 2 * traced.captured


def test_a_step_is_captured_once_for_all_positions_and_batches_of_a_call(sampler, monkeypatch):
    monkeypatch.setattr(decoder_module, "GRAIN", 16)
    traced = Traced()
    sampler.capture = lambda: traced
    sampler.sample([PROMPTS[0]], [(64, 64)], cfg=2.0)
    alone = traced.captured
    most = 2 * 2  # one token and two, for each 16 of 28 keys
    assert 2 <= alone <= most
    sampler.batch = 1
    sampler.sample(PROMPTS[:4], [(64, 64)] * 4, cfg=2.0)
    assert traced.captured <= alone + most  # not once for each image


def test_texts_are_the_same_with_replayed_steps(sampler, profile, monkeypatch):
    text, settings = range(30, 48), {"temperature": 1.0, "top_k": 10, "seed": 2, "max_tokens": 24}
    expected = sampler.answer(PROMPTS, text, **settings)
    monkeypatch.setattr(decoder_module, "GRAIN", 16)
    monkeypatch.setattr(sampler_module, "LOOKS", 7)
    traced = Traced()
    sampler.capture = lambda: traced
    assert sampler.answer(PROMPTS, text, **settings) == expected
    assert traced.replayed > traced.captured > 0


class Devices(TorchDispatchMode):
    """Devices of the tensors of each operator."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, torch.Tensor)]
        self.seen.append((str(func), {tensor.device.type for tensor in tensors}))
        return found


@pytest.mark.parametrize("init", ["tiny", "llama-tiny", "qwen3-tiny"])
def test_nothing_of_a_step_waits_for_its_device_or_comes_from_another(init, profile):
    """On the meta device, which has shapes and no values to wait for. A GPU's graph captures neither."""
    model = build_model(init, profile, device="meta").to("meta").eval()
    model.set_attn_implementation("sdpa")
    decoder = Decoder(model, rows=4, room=64, replays=Replays(lambda step: step))
    with torch.no_grad():
        for count in (5, 1, 2):
            tokens = torch.zeros(4, count, dtype=torch.int64, device="meta")
            with Devices() as devices:
                decoder._step(tokens, 64)
            assert len(devices.seen) > 100
            assert {kind for _, kinds in devices.seen for kind in kinds} == {"meta"}
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):  # how a wait would show
        int(decoder._length)


def test_a_row_does_not_see_what_a_longer_batch_left_in_the_cache(sampler):
    fresh = Decoder(sampler.model, 2, 64, Replays(lambda step: step))
    used = Decoder(sampler.model, 2, 64, Replays(lambda step: step))
    with torch.no_grad():
        used.start([[30] * 50, [31] * 10], pad=0)
        used.feed(torch.tensor([[31], [32]]))
        for decoder in (fresh, used):
            decoder.start([[0, 30, 31], [0, 32]], pad=0)
            decoder.feed(torch.tensor([[33], [34]]))
            decoder.feed(torch.tensor([[35, 36], [37, 38]]))
    assert torch.equal(fresh.hidden, used.hidden)
    assert used.fed == 6


def test_what_cannot_be_captured_is_computed_step_by_step_and_said_once(caplog):
    taken, tried = [], []

    def capture(step):
        tried.append(step)
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    replays = Replays(capture)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            replays.run(number % 2, lambda number=number: taken.append(number))
    assert taken == list(range(6))
    assert len(tried) == 1
    (told,) = caplog.records
    assert told.getMessage().startswith("steps are not replayed, which is slower: operation not permitted")


def test_memory_that_runs_out_in_a_capture_is_left_to_who_halves_batches():
    def capture(step):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    replays = Replays(capture)
    replays.run(1, lambda: None)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        replays.run(1, lambda: None)
