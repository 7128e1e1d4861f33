"""Fused operators beside transformers' own, on a CPU by Triton's interpreter, and compiled for GPUs."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from language_models import CONFIGS, write_model
from operators import Watch
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonLayerNorm,
    ChameleonRMSNorm,
    apply_rotary_pos_emb,
)
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.estimate.memory import activations
from rasterloom.train.model import kernels
from rasterloom.train.model.packed_lm import own_attention, training_model
from rasterloom.train.model.shapes import shape_of
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step, start_deepspeed
from rasterloom.train.sampling.sampler import Sampler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
KINDS = pytest.mark.parametrize(
    ("kind", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Kernels take a CPU's tensors, and are computed by NumPy (tests/conftest.py), which cuts to bfloat16."""
    from rasterloom.train.model import triton_kernels

    assert "Interpreted" in type(triton_kernels.gate_forward).__name__
    monkeypatch.setattr(kernels, "takes", lambda *tensors: True)


def drawn(*shape, kind, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)


def results(function, inputs, given):
    """The output, and the gradient of each input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(given)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_close(found, expected, exact, bound):
    """As near to the exact values as the eager operators are, but for a bound relative to the largest."""
    for ours, eager, right in zip(found, expected, exact, strict=True):
        assert (ours.dtype, ours.shape) == (eager.dtype, eager.shape)
        largest = right.abs().max()
        error, usual = ((x.double() - right).abs().max() / largest for x in (ours, eager))
        assert error <= max(bound, 1.5 * usual)
        assert error <= 2 * bound


def compare(fused, eager, inputs, given, bound):
    found, expected = (results(function, inputs, given) for function in (fused, eager))
    exact = results(eager, [x.double() for x in inputs], given.double())
    assert_close(found, expected, exact, bound)


@KINDS
@pytest.mark.parametrize("module", [ChameleonRMSNorm, Olmo2RMSNorm])
@pytest.mark.parametrize(("shape", "strided"), [((5, 32), False), ((1, 300, 48), False), ((3, 7, 33), True)])
def test_the_norm(shape, strided, module, kind, bound):
    """Also of more rows than the weight's gradient has parts, and of a width that is no power of two."""
    x, weight = drawn(*shape, kind=kind), 1 + drawn(shape[-1], kind=kind, seed=1)
    given = drawn(*shape, kind=kind, seed=2)
    if strided:
        x, given = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, given))

    def eager(x, weight):
        norm = module(shape[-1], eps=1e-5)
        if x.dtype == torch.float64:
            return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    rounds = module is ChameleonRMSNorm
    compare(lambda *x: kernels.rms_norm(*x, 1e-5, rounds=rounds), eager, [x, weight], given, bound)


@pytest.mark.parametrize(("module", "rounds"), [(ChameleonRMSNorm, True), (Olmo2RMSNorm, False)])
def test_the_norm_is_rounded_where_its_family_rounds(module, rounds):
    """In float16, which NumPy rounds as a GPU does: elements are the family's own, nearly all of them."""
    x, weight = drawn(64, 48, kind=torch.float16), 1 + drawn(48, kind=torch.float16, seed=1)
    norm = module(48, eps=1e-5)
    expected = torch.func.functional_call(norm, {"weight": weight}, (x,))
    same, other = (
        (kernels.rms_norm(x, weight, 1e-5, rounds=one) == expected).float().mean()
        for one in (rounds, not rounds)
    )
    assert same > 0.98 > 0.9 > other


@pytest.mark.parametrize(("module", "rounds"), [(ChameleonRMSNorm, True), (Olmo2RMSNorm, False)])
def test_a_model_s_norms_round_as_its_family(module, rounds, monkeypatch):
    norm, asked = module(8), []
    monkeypatch.setattr(kernels, "rms_norm", lambda x, *_, rounds: asked.append(rounds) or x)
    kernels.fuse(torch.nn.Sequential(norm))
    norm(torch.ones(2, 8))
    assert asked == [rounds]


@KINDS
@pytest.mark.parametrize("shape", [(1, 1), (1, 37, 43), (3, 1024)])
def test_the_gate(shape, kind, bound):
    gate, up, given = (5 * drawn(*shape, kind=kind, seed=seed) for seed in range(3))
    compare(
        kernels.gated,
        lambda a, b: torch.nn.functional.silu(a) * b,
        [gate, up.mT.contiguous().mT],
        given,
        bound,
    )


@KINDS
@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 4, 8), (37, 3, 20), (300, 2, 16)])
def test_heads_are_normalized_and_rotated(tokens, heads, width, kind, bound):
    """Each by its own weight and bias; as the attention calls it, its output is seen by other strides."""
    x = drawn(1, tokens, heads, width, kind=kind)
    weight, bias = (number + drawn(heads, width, kind=kind, seed=seed) for number, seed in ((1, 1), (0, 2)))
    angles = torch.arange(tokens)[None, :, None] * 1e4 ** (-torch.arange(width // 2) / width)
    cosine, sine = (torch.cat([f(angles)] * 2, -1).to(kind) for f in (torch.cos, torch.sin))
    given = drawn(1, heads, tokens, width, kind=kind, seed=3)

    def fused(x, weight, bias):
        return kernels.rotated_norm(x, weight, bias, cosine, sine).transpose(1, 2)

    def eager(x, weight, bias):
        norm = ChameleonLayerNorm((heads, width))
        normed = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x[0],))
        normed, at = normed[None].transpose(1, 2), (cosine.to(x.dtype), sine.to(x.dtype))
        return apply_rotary_pos_emb(normed, normed, *at)[0]

    compare(fused, eager, [x, weight, bias], given, bound)


def model_of(profile, monkeypatch, *, fused, init="tiny", dtype=torch.float32, **options):
    monkeypatch.setattr(kernels, "are_there", lambda: fused)
    train = Train(
        stages=(Stage(target=64, steps=1),), init=init, model=Model(**options), z_loss=0.01, dropout=0.0
    )
    return training_model(init, profile, train).to(dtype).train()


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels that are called."""
    found = []

    def noting(name, function):
        def note(*args, **options):
            found.append(name)
            return function(*args, **options)

        return note

    for name in ("rms_norm", "gated", "rotated_norm"):
        monkeypatch.setattr(kernels, name, noting(name, getattr(kernels, name)))
    return found


LENGTHS = [9, 5, 2]


def step(model):
    ids = torch.arange(sum(LENGTHS)) % 40
    loss = model(ids, ids.roll(-1), LENGTHS).total
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"remat": "selective"}, torch.float32),
        ({"remat": "full", "lora": Lora(rank=2, vocabulary=True)}, torch.float32),
        ({}, torch.bfloat16),
    ],
)
def test_a_model_has_the_same_loss_and_gradients(options, dtype, profile, calls, monkeypatch):
    """In bf16 with errors no larger than those of the eager model, beside float32."""
    check_model(profile, calls, monkeypatch, dtype=dtype, **options)
    layers, times = 3, 1 if options.get("remat", "none") == "none" else 2
    assert Counter(calls) == {
        "gated": layers * times,
        "rotated_norm": 2 * layers * times,
        "rms_norm": 2 * layers * times + 1,
    }


NORMS = {"olmo2": 4, "qwen3": 4}  # of a layer; the others have two


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_norms_and_mlps_of_other_families_are_fused_as_well(
    family, dtype, profile, calls, monkeypatch, tmp_path
):
    profile = replace(profile, text0=0, vocab_size=400)
    init = write_model(tmp_path / "init", family, tied=False, vocab_size=400, boi_token_id=profile.boi)
    model = check_model(profile, calls, monkeypatch, init=init, dtype=dtype)
    layers = len(model.lm.model.layers)
    assert Counter(calls) == {"gated": layers, "rms_norm": NORMS.get(family, 2) * layers + 1}


def check_model(profile, calls, monkeypatch, *, dtype, **options):
    """Compare a fused model's loss and gradients with those of one that is not; return the fused one."""
    plain = model_of(profile, monkeypatch, fused=False, dtype=dtype, **options)
    loss, gradients = step(plain)
    assert not calls
    fused = model_of(profile, monkeypatch, fused=True, dtype=dtype, **options)
    same_loss, same = step(fused)
    exact_loss, exact = (loss, gradients) if dtype == torch.float32 else step(plain.float())
    assert float(same_loss) == pytest.approx(float(exact_loss), rel=1e-5 if dtype == torch.float32 else 5e-3)
    assert same.keys() == gradients.keys()
    for name, right in exact.items():
        error, usual = ((found[name].float() - right).norm() for found in (same, gradients))
        assert error <= max(1e-5 * max(right.norm(), 1e-3), 1.5 * usual), name
    assert plain.state_dict().keys() == fused.state_dict().keys()
    return fused


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("init", ["tiny", "llama-tiny", "qwen3-tiny"])
def test_layers_keep_what_the_estimate_says(init, kind, profile, monkeypatch):
    """By what two further layers add."""
    model = model_of(profile, monkeypatch, fused=True, init=init, dtype=kind)
    weights, kept = {p.untyped_storage()._cdata for p in model.parameters()}, []
    ids = torch.arange(20)
    for layers in (3, 1):
        del model.lm.model.layers[layers:]
        model.lm.model.config.num_hidden_layers = layers
        with Watch() as watch:
            loss = model(ids, ids.roll(-1), [10, 10]).total
            kept.append(watch.alive(besides=weights))
        del loss
    shape = shape_of(init, profile.vocab_size)
    train = Train(
        stages=(Stage(target=64, steps=1),), dropout=0.0, deepspeed=DeepSpeed(bf16=kind == torch.bfloat16)
    )
    told = [activations(replace(shape, layers=layers), train, 20) for layers in (3, 1)]
    assert kept[0] - kept[1] == pytest.approx(told[0] - told[1], rel=0.02)


@pytest.mark.parametrize("zero", [2, 3])
def test_deepspeed_trains_it_alike(zero, profile, monkeypatch, one_rank):
    """ZeRO 3 gathers the weights of each module, and of no function."""
    losses = []
    for fused in (False, True):
        monkeypatch.setattr(kernels, "are_there", lambda fused=fused: fused)
        train = Train(stages=(Stage(target=64, steps=4),), deepspeed=DeepSpeed(zero=zero), dropout=0.0)
        engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)
        ids = torch.arange(12)
        for _ in range(3):
            loss = engine(ids, ids.roll(-1), [7, 5]).total
            backward(engine, loss, last=True)
            optimizer_step(engine, 1e-3, lambda norm: True)
            losses.append(float(loss))
        engine.destroy()
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-4)
    assert losses[2] < 0.9 * losses[0]


def test_drawing_gives_the_same_picture(profile, monkeypatch):
    pictures = []
    for fused in (False, True):
        lm = model_of(profile, monkeypatch, fused=fused).eval().lm
        with torch.no_grad(), own_attention(lm):
            pictures.append(Sampler(lm, profile).sample([[0, 30, 16]], [(64, 64)], cfg=2.0, seed=1))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*pictures, strict=True))


@pytest.mark.parametrize("options", [{"kernels": "eager"}, {"compile": True}])
def test_a_model_is_left_alone_where_the_recipe_or_the_compiler_says_so(options, profile, monkeypatch):
    fused = []
    monkeypatch.setattr(kernels, "fuse", fused.append)
    model_of(profile, monkeypatch, fused=True, **options)
    assert not fused
    model_of(profile, monkeypatch, fused=True)
    assert len(fused) == 1


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rasterloom.train.model import triton_kernels

FLOATS = ("factors", "by_weight", "by_bias")
WHOLE = ("width", "rows", "size", "tokens", "heads", "half")
CONSTANTS = {"ROUNDS": True, "BLOCK": 4096, "ROWS": 16, "HALF": 64}
for name in ("rms_norm", "gate", "norm_rotate"):
    for kernel in (getattr(triton_kernels, f"{name}_{way}ward") for way in ("for", "back")):
        for capability in (80, 90):
            signature = {
                argument: "constexpr" if argument in CONSTANTS else "i32" if argument in WHOLE
                else "fp32" if argument == "eps" else "*fp32" if argument in FLOATS else "*bf16"
                for argument in kernel.arg_names
            }
            constants = {name: value for name, value in CONSTANTS.items() if name in signature}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            found = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert f"sm_{capability}" in found.asm["ptx"]
            print(kernel.__name__, capability, len(found.asm["cubin"]))
"""


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """A100 and H100, in bf16: to machine code, by the assembler that Triton brings."""
    alone = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=alone | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
