"""The memory that a dry run tells of, beside what torch and DeepSpeed hold on a CPU."""

import gc
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from operators import Watch

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Ema, Stage, Train
from rasterloom.train.estimate.memory import activations, memory, trained_parameters
from rasterloom.train.model.freeze import freeze
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.model.shapes import SIZES, parameter_shapes, shape_of
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step, start_deepspeed

LORA = Lora(rank=4, targets=("q_proj", "down_proj"), vocabulary=True)


def train_with(model=Model(), dropout=0.0, **options):
    """With PyTorch's operators, which a CPU has."""
    model = model.model_copy(update={"kernels": "eager"})
    return Train(stages=(Stage(target=64, steps=1),), init="tiny", dropout=dropout, model=model, **options)


@pytest.mark.parametrize(
    ("lora", "patterns"), [(None, ()), (None, ("embeddings", "layers.1")), (LORA, ()), (LORA, ("head",))]
)
def test_parameters_are_those_of_the_model(lora, patterns, profile):
    train = train_with(model=Model(lora=lora))
    lm = training_model("tiny", profile, train).lm
    freeze(lm, patterns)
    shape = shape_of("tiny", profile.vocab_size)
    assert parameter_shapes(shape, lora) == {name: tuple(p.shape) for name, p in lm.named_parameters()}
    learning = {name for name, p in lm.named_parameters() if p.requires_grad}
    assert trained_parameters(shape, lora, patterns) == learning
    told = memory(shape, train, patterns, 1, 0)
    assert told.params == sum(p.numel() for p in lm.parameters())
    assert told.trained == sum(p.numel() for p in lm.parameters() if p.requires_grad)


def storages():
    """The memory of all tensors that there are, by where it lies. Held on to, nothing new can lie there."""
    gc.collect()
    tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    return {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}


@pytest.mark.parametrize(
    ("options", "lora", "tolerance"),
    [
        ({"zero": 0}, None, 0.01),
        ({"zero": 1, "bf16": True}, None, 0.01),
        ({"zero": 2, "bf16": True}, LORA, 0.01),
        ({"zero": 3, "bf16": True}, None, 0.01),
        # DeepSpeed's buffers for the largest parameter are more than they would be of a large model.
        ({"zero": 2, "bf16": True, "offload": "cpu"}, Lora(rank=4), 0.1),
        ({"zero": 3, "bf16": True, "offload": "cpu"}, None, 0.1),
    ],
)
def test_states_are_the_bytes_that_deepspeed_holds(options, lora, tolerance, profile, one_rank):
    """Before the second optimizer step, with the gradients of two micro-batches."""
    train = train_with(deepspeed=DeepSpeed(**options), model=Model(lora=lora))
    before = storages()
    engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)
    ids = torch.arange(40)
    for last in (True, False, True):
        backward(engine, engine(ids, ids.roll(-1), [20, 20]).total, last=last)
        if last and not engine.global_steps:
            optimizer_step(engine, 1e-4, lambda norm: True)
    told = memory(shape_of("tiny", profile.vocab_size), train, (), 1, 0)
    buckets = 4 * told.params if options["zero"] == 3 else 0  # the others have let go of them
    expected = pytest.approx(told.states + told.host + buckets, rel=tolerance)

    def held():
        return sum(memory.nbytes() for at, memory in storages().items() if at not in before)

    # A thread of gloo lets go of what it reduced a moment after the reduction has ended.
    waited = time.monotonic() + 120
    while held() != expected and time.monotonic() < waited:
        time.sleep(0.1)
    assert held() == expected
    assert bool(told.host) == ("offload" in options)
    engine.destroy()


def test_each_of_many_workers_holds_its_share():
    def states(zero, workers, **options):
        deepspeed = DeepSpeed(zero=zero, bf16=zero > 0, **options)
        told = memory(SIZES["7b"], train_with(deepspeed=deepspeed), (), workers, 0)
        return told.states, told.host

    n = SIZES["7b"].params
    assert states(0, 8) == (16 * n, 0)
    assert states(1, 8) == (2 * n + 6 * n + 12 * n / 8, 0)
    assert states(2, 8) == (2 * n + 4 * n / 8 + 12 * n / 8, 0)
    assert states(3, 8) == (18 * n / 8, 0)
    assert states(2, 8, offload="cpu") == (2 * n + 4 * n / 8, 18 * n / 8)
    param = {"zero_optimization": {"offload_param": {"device": "cpu"}}}
    assert states(3, 8, offload="cpu", extra=param) == (0, 22 * n / 8)


def test_a_worker_holds_its_share_of_the_average_beside_its_device():
    n = SIZES["7b"].params
    plain, averaged = (
        memory(SIZES["7b"], train_with(deepspeed=DeepSpeed(zero=3), ema=ema), (), 8, 0)
        for ema in (None, Ema())
    )
    assert averaged.average == 4 * n / 8 and plain.average == 0
    assert replace(averaged, average=0.0) == plain


@pytest.mark.parametrize("remat", ["none", "selective", "full"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("init", ["tiny", "llama-tiny", "qwen3-tiny"])
def test_activations_are_the_bytes_that_layers_keep(remat, bf16, init, profile):
    """What two further layers add, so that the ends of the model do not count."""
    train = train_with(model=Model(remat=remat), deepspeed=DeepSpeed(zero=1, bf16=bf16))
    lengths = [150, 150]
    model = training_model(init, profile, train).to(torch.bfloat16 if bf16 else torch.float32).train()
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    ids, kept = torch.arange(sum(lengths)) % 40, []
    for layers in (3, 1):
        del model.lm.model.layers[layers:]
        model.lm.model.config.num_hidden_layers = layers
        with Watch() as watch:
            loss = model(ids, ids.roll(-1), lengths).total
            kept.append(watch.alive(besides=weights))
        del loss
    shape = shape_of(init, profile.vocab_size)
    told = [activations(replace(shape, layers=layers), train, sum(lengths)) for layers in (3, 1)]
    assert told[0] - told[1] == pytest.approx(kept[0] - kept[1], rel=0.02)


@pytest.mark.parametrize(
    ("init", "bf16", "remat"),
    [
        ("tiny", True, "none"),
        ("tiny", True, "selective"),
        pytest.param("llama-tiny", False, "none", marks=pytest.mark.slow),
        pytest.param("qwen3-tiny", True, "none", marks=pytest.mark.slow),
        pytest.param("qwen3-tiny", True, "selective", marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_keep_what_the_compiler_says(
    init, bf16, remat, profile, varlen_on_a_cpu, monkeypatch
):
    """As inductor splits a layer into forward and backward, without the code that it would write of it."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    options = Model(remat=remat, compile=True)
    train = train_with(model=options, deepspeed=DeepSpeed(zero=1, bf16=bf16))
    lengths = [150, 150]
    model = training_model(init, profile, train).to(torch.bfloat16 if bf16 else torch.float32).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    ids, kept = torch.arange(sum(lengths)) % 40, []
    for layers in (3, 1):
        del model.lm.model.layers[layers:]
        model.lm.model.config.num_hidden_layers = layers
        saved = {}

        def keep(tensor, saved=saved):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes() if storage.data_ptr() not in weights else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(ids, ids.roll(-1), lengths).total
        kept.append(sum(saved.values()))
        del loss
    assert varlen_on_a_cpu == {"forward": 4}
    shape = shape_of(init, profile.vocab_size)
    told = [activations(replace(shape, layers=layers), train, sum(lengths)) for layers in (3, 1)]
    assert told[0] - told[1] == pytest.approx(kept[0] - kept[1], rel=0.03)


@pytest.mark.parametrize(("remat", "times"), [("none", 32), ("full", 1)])
def test_masks_of_dropout_are_a_byte_an_element(remat, times):
    with_masks, without = (
        activations(SIZES["7b"], train_with(Model(remat=remat), dropout=p), 100) for p in (0.05, 0.0)
    )
    assert with_masks - without == times * 100 * 2 * 4096
    compiled = [activations(SIZES["7b"], train_with(Model(compile=True), dropout=p), 100) for p in (0.05, 0)]
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize(("zero", "vocab", "remat"), [(1, 0, "none"), (2, 0, "full"), (2, 2000, "none")])
def test_the_fullest_moment_of_a_step(zero, vocab, remat, profile, one_rank):
    """With many tokens, or with most of the memory in the vocabulary; what is small at 7B is not here."""
    profile = replace(profile, vocab_size=vocab or profile.vocab_size)
    lengths = [150] * (2 if vocab else 8)
    deepspeed = DeepSpeed(zero=zero, bf16=True, extra={"zero_optimization": {"reduce_bucket_size": 100_000}})
    stage = Stage(target=64, steps=1, batch_tokens=sum(lengths))
    train = train_with(deepspeed=deepspeed, model=Model(remat=remat)).model_copy(update={"stages": (stage,)})
    engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)
    ids = torch.arange(sum(lengths)) % 40

    def step():
        backward(engine, engine(ids, ids.roll(-1), lengths).total, last=True)
        optimizer_step(engine, 1e-4, lambda norm: True)

    step()
    weights = {p.untyped_storage()._cdata for p in engine.module.parameters()}
    with Watch(peaks=True, besides=weights) as watch:
        step()
    told = memory(shape_of("tiny", profile.vocab_size), train, (), 1, sum(lengths))
    assert watch.peak == pytest.approx(told.late + told.total - told.states, rel=0.1)
    engine.destroy()


def test_gradients_of_earlier_micro_batches_are_there_in_the_forward_pass():
    train = train_with(deepspeed=DeepSpeed(zero=2, bf16=True))
    once, cut = (memory(SIZES["7b"], train, (), 8, tokens) for tokens in (262_144 // 8, 262_144 // 8 - 1))
    assert once.late == 4 * SIZES["7b"].params / 8 and cut.late == 0


def test_previews_are_drawn_in_place_of_a_step():
    """A sequence of 1024 pixels a side takes two gibibytes of keys and values, with its guidance four."""
    train = train_with(deepspeed=DeepSpeed(zero=3, bf16=True), sample_every=10)
    large = train.model_copy(update={"stages": (Stage(target=1024, steps=1),)})
    told = memory(SIZES["7b"], large, (), 1024, 16)
    assert told.drawing == pytest.approx(4.3 * 2**30, rel=0.05)
    assert told.total == told.states - told.late + told.drawing
    assert memory(SIZES["7b"], large.model_copy(update={"sample_every": None}), (), 1024, 16).drawing == 0
