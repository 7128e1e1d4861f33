"""Stage `equality` of benchmarks/gpu.py: the GPU's losses, gradients and steps beside a CPU's in float32."""

from typing import Literal

import numpy as np
import torch
from gpu_models import drawn_model, one_rank, plain_layers, profile_of, set_shape
from gpu_record import Bench, relative
from torch import Tensor

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.data.collate import Packed, pack
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.train.deepspeed_config import BETAS
from rasterloom.train.model import kernels
from rasterloom.train.model.activation_checkpointing import prepare_layers
from rasterloom.train.model.packed_lm import PackedLM
from rasterloom.train.monitoring.tally import Tally
from rasterloom.train.optim.deepspeed_engine import full_weights, parameter_groups, start_deepspeed
from rasterloom.train.optim.exact_weights import restore_exact
from rasterloom.train.optim.train_step import train_step

LENGTHS, PROMPT = (600, 351, 77, 5, 1), 40
SOME: tuple[Literal["selective", "full"], ...] = ("selective", "full")
COMPILED: tuple[Literal["none", "selective"], ...] = ("none", "selective")
STEPS, LR, CLIP, DECAY, Z_LOSS = 3, 1e-4, 4.0, 0.1, 1e-5


def equality(bench: Bench) -> None:
    set_shape(bench, layers=2)
    batch = packed(bench)
    model = PackedLM(drawn_model(bench, torch.device("cpu")), z_loss=Z_LOSS)
    weights = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    loss, gradients = run(model, batch)
    model.to(bench.device)
    _beside("float32", bench, run(model, batch), (loss, gradients), (1e-5, 1e-3))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    plain = run(model, batch)
    _beside("bfloat16", bench, plain, (loss, gradients), (2e-3, 3e-2))
    for remat in SOME:
        plain_layers(model.lm)
        prepare_layers(model.lm.model.layers, remat=remat, compiled=False)
        found = run(model, batch)
        bench.note(f"loss, {remat}, bits that differ", int(found[0] != plain[0]), goal=("==", 0))
        _, worst = _worst(found[1], plain[1])
        bench.note(f"gradient, {remat}, worst", worst, goal=("<=", 1e-3))
    plain_layers(model.lm)
    _repeated(bench, model, batch)
    kernels.fuse(model.lm)
    _beside("fused kernels", bench, run(model, batch), (loss, gradients), (2e-3, 3e-2))
    plain_layers(model.lm)
    for kept in () if bench.rehearses else COMPILED:
        plain_layers(model.lm)
        prepare_layers(model.lm.model.layers, remat=kept, compiled=True)
        found = run(model, batch)
        _beside(f"compiled, {kept}", bench, found, (loss, gradients), (2e-3, 3e-2))
    del model
    _steps(bench, batch, weights)


def packed(bench: Bench) -> Packed:
    rng, profile = np.random.default_rng(0), profile_of(bench)
    samples = []
    for length in (max(2, n // 10) for n in LENGTHS) if bench.rehearses else LENGTHS:
        ids = rng.integers(0, profile.vocab_size, length, dtype=np.int32)
        samples.append(TokenSample(ids, np.array([[min(PROMPT, length - 1), length]], np.int32)))
    return pack(samples)


def run(model: PackedLM, batch: Packed) -> tuple[float, dict[str, Tensor]]:
    """Mean loss, and the gradients on the CPU in float32."""
    device = next(model.parameters()).device
    ids, targets = (torch.from_numpy(x).to(device) for x in (batch.input_ids, batch.targets))
    losses = model.train()(ids, targets, batch.lengths)
    (losses.total / len(losses.nll)).backward()
    gradients = {}
    for name, parameter in model.lm.named_parameters():
        assert parameter.grad is not None
        gradients[name] = parameter.grad.float().cpu()
        parameter.grad = None
    return float(losses.total) / len(losses.nll), gradients


def _worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[str, float]:
    """The gradient that is furthest off, and its relative difference."""
    errors = {name: relative(found[name], expected[name]) for name in expected}
    name = max(errors, key=lambda one: errors[one])
    return name, errors[name]


def _beside(
    name: str,
    bench: Bench,
    found: tuple[float, dict[str, Tensor]],
    expected: tuple[float, dict[str, Tensor]],
    bounds: tuple[float, float],
) -> None:
    bench.note(f"loss, {name}", abs(found[0] - expected[0]) / expected[0], goal=("<=", bounds[0]))
    which, worst = _worst(found[1], expected[1])
    bench.note(f"gradient, {name}, worst", worst, goal=("<=", bounds[1]), args={"parameter": which})
    cosines = [
        float(torch.nn.functional.cosine_similarity(found[1][n].view(-1), g.view(-1), dim=0))
        for n, g in expected[1].items()
    ]
    bench.note(f"gradient, {name}, least cosine", min(cosines), goal=(">=", 0.999))


def _repeated(bench: Bench, model: PackedLM, batch: Packed) -> None:
    """Two backward passes on the same batch: with deterministic kernels bit for bit, and without."""
    _, spread = _worst(run(model, batch)[1], run(model, batch)[1])
    bench.note("gradients of two passes, as it is", spread)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        _, spread = _worst(run(model, batch)[1], run(model, batch)[1])
    finally:
        torch.use_deterministic_algorithms(False)
    bench.note("gradients of two passes, deterministic", spread, goal=("==", 0))


def _steps(bench: Bench, batch: Packed, weights: dict[str, Tensor]) -> None:
    """Weights after some steps of each ZeRO stage, beside a loop's."""
    one_rank(bench)
    expected = _plain_steps(bench, batch, weights)
    for zero in (1, 2, 3):
        stage = Stage(target=512, steps=STEPS, lr=LR)
        train = Train(
            stages=(stage,), deepspeed=DeepSpeed(zero=zero, bf16=True), grad_clip=CLIP, weight_decay=DECAY
        )
        model = _loaded(bench, weights)
        engine = start_deepspeed(model, train, use_gpu=not bench.rehearses)
        restore_exact(engine, weights.items())
        for _ in range(STEPS):
            train_step(engine, [batch], bench.device, NO_TALLY, lr=LR)
        _, worst = _worst(full_weights(engine, keep=True), expected)
        bench.note(f"weights after {STEPS} steps, ZeRO {zero}", worst, goal=("<=", 1e-3))
        engine.destroy()
        del engine, model


def _loaded(bench: Bench, weights: dict[str, Tensor]) -> PackedLM:
    lm = drawn_model(bench, bench.device)
    lm.load_state_dict(weights)
    return PackedLM(lm, z_loss=Z_LOSS).train()


def _plain_steps(bench: Bench, batch: Packed, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    model = _loaded(bench, weights)
    groups = parameter_groups(model, DECAY)
    parameters = [p for group in groups for p in group["params"]]
    masters = {id(p): p.detach().clone().requires_grad_() for p in parameters}
    of_masters = [{**group, "params": [masters[id(p)] for p in group["params"]]} for group in groups]
    optimizer = torch.optim.AdamW(of_masters, lr=LR, betas=BETAS)
    names = {id(p): name for name, p in model.lm.named_parameters()}
    for _ in range(STEPS):
        for p in parameters:
            p.data = masters[id(p)].detach().to(torch.bfloat16)
        _, gradients = run(model, batch)
        for p in parameters:
            masters[id(p)].grad = gradients[names[id(p)]].to(bench.device)
        torch.nn.utils.clip_grad_norm_(list(masters.values()), CLIP)
        optimizer.step()
    return {names[id(p)]: masters[id(p)].detach().cpu() for p in parameters}


class _NoTally(Tally):
    def __init__(self) -> None:
        """Keep nothing."""

    def add(self, nll: Tensor, packed: Packed) -> None:
        """Nothing is counted."""


NO_TALLY = _NoTally()
