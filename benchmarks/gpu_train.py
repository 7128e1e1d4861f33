"""Stage `train` of benchmarks/gpu.py: the product's steps on layers of a 7B, and those of a padded peer."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from bench_train import batches, make_samples, padded_batch
from gpu_equality import NO_TALLY
from gpu_models import drawn_model, one_rank, plain_layers, profile_of, set_shape
from gpu_record import Bench, Timed
from kernel_tables import category
from torch import Tensor

from rasterloom.recipe.model import Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.data.collate import IGNORE, Packed, pack
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.train.devices import device_name
from rasterloom.train.estimate.flops import peak_flops, train_flops
from rasterloom.train.estimate.memory import memory
from rasterloom.train.model import kernels
from rasterloom.train.model.activation_checkpointing import prepare_layers
from rasterloom.train.model.packed_lm import PackedLM, own_attention
from rasterloom.train.model.shapes import Shape
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step, start_deepspeed
from rasterloom.train.optim.train_step import train_step

LAYERS, TOKENS, LR, DROPOUT = 16, 16_384, 1e-5, 0.05
WARM, STEPS = 2, 5
Remat = Literal["none", "selective", "full"]
Operators = Literal["eager", "kernels", "compiled"]
# target, remat, what computes the layers; MFU predicted on an H200, and its goal
VARIANTS: Sequence[tuple[int, Remat, Operators, str, float | None]] = (
    (512, "none", "eager", "50-53 %", 0.48),
    (512, "selective", "eager", "44 %", 0.42),
    (512, "full", "eager", "39 %", 0.37),
    (512, "none", "kernels", "64 %", 0.60),
    (512, "selective", "kernels", "56 %", None),
    (512, "none", "compiled", "60-65 %", 0.58),
    (512, "selective", "compiled", "", None),
    (1024, "selective", "kernels", "42 %", 0.40),
)
REHEARSED = (VARIANTS[0], VARIANTS[4], VARIANTS[5])
USEFUL = {512: 1.25, 1024: 1.15}  # times the padded peer's tokens/s
REHEARSED_TARGET, REHEARSED_TOKENS = 64, 200


class Either(PackedLM):
    """Model on concatenated sequences, or on a padded batch."""

    def forward(self, *args: Any, padded: dict[str, Tensor] | None = None) -> Any:
        if padded is None:
            return super().forward(*args)
        return self.lm(**padded, use_cache=False).loss


class Steps:
    """An engine, and the batches that its steps take."""

    def __init__(self, bench: Bench) -> None:
        one_rank(bench)
        self.bench, self.shape = bench, set_shape(bench, LAYERS)
        self.model = Either(drawn_model(bench, bench.device), DROPOUT, z_loss=1e-5).train()
        stage = Stage(
            target=512, steps=1, lr=LR, batch_tokens=1
        )  # smaller than a micro-batch: no accumulation
        self.train = Train(stages=(stage,), deepspeed=DeepSpeed(zero=2, bf16=True))
        self.engine = start_deepspeed(self.model, self.train, use_gpu=not bench.rehearses)

    def prepare(self, remat: Remat, operators: Operators) -> None:
        lm = self.model.lm
        plain_layers(lm)
        torch._dynamo.reset()
        if operators == "kernels":
            kernels.fuse(lm)
        prepare_layers(lm.model.layers, remat=remat, compiled=operators == "compiled")

    def samples(self, target: int) -> list[list[TokenSample]]:
        """Batches of samples, enough for a variant."""
        bench = self.bench
        target, tokens = (REHEARSED_TARGET, REHEARSED_TOKENS) if bench.rehearses else (target, TOKENS)
        wanted = 1 if bench.rehearses else WARM + STEPS
        count = (wanted + 2) * tokens // (target * target // 256)
        return batches(make_samples(target, count, profile_of(bench)), tokens)[:wanted]

    def ours(self, batch: Packed) -> None:
        train_step(self.engine, [batch], self.bench.device, NO_TALLY, lr=LR)

    def padded(self, samples: Sequence[TokenSample]) -> None:
        tensors = padded_batch(samples, profile_of(self.bench), 0)
        on_device = {name: tensor.to(self.bench.device) for name, tensor in tensors.items()}
        backward(self.engine, self.engine(padded=on_device), last=True)
        optimizer_step(self.engine, LR, lambda norm: True)


def train(bench: Bench) -> None:
    steps = Steps(bench)
    pace: dict[int, float] = {}
    if bench.rehearses:  # without the code that inductor would write, which takes a C++ compiler and a minute
        torch.compile = partial(torch.compile, backend="eager")
    for target, remat, operators, predicted, goal in REHEARSED if bench.rehearses else VARIANTS:
        steps.prepare(remat, operators)
        rate = _variant(steps, target, remat, operators, predicted, goal)
        if operators != "compiled":
            pace[target] = max(rate, pace.get(target, 0.0))
    for target, rate in pace.items():
        steps.prepare("none" if target == 512 else "full", "eager")
        _peer(steps, target, rate)


def _each(work: Callable[[Any], None], items: Sequence[Any]) -> Callable[[], None]:
    """A function without arguments that does one item after the other."""
    left = iter(items)
    return lambda: work(next(left))


def _variant(
    steps: Steps, target: int, remat: Remat, operators: Operators, predicted: str, goal: float | None
) -> float:
    """Figures of one variant. Returns its tokens a second."""
    bench = steps.bench
    packed = [pack(samples) for samples in steps.samples(target)]
    args = {"target": target, "remat": remat, "operators": operators}
    bench.reset_peak()
    retries = _retries(bench)
    timed = bench.timed(_each(steps.ours, packed), warm=WARM, runs=STEPS)
    counted = packed[-timed.runs :]
    tokens = sum(sum(batch.lengths) for batch in counted) / timed.runs
    rate = tokens / timed.seconds
    bench.note("tokens/s", rate, timed=timed, args=args)
    flops = _flops(steps.shape, counted) / timed.runs
    peak = peak_flops(device_name(bench.device))
    if peak:
        of_peak = flops / timed.seconds / peak
        bench.note("MFU", of_peak, goal=(">=", goal) if goal else None, predicted=predicted, args=args)
    given = Model(
        remat=remat,
        compile=operators == "compiled",
        kernels="auto" if operators == "kernels" else "eager",
    )
    _memory(steps, packed, given, args)
    bench.note("allocator retries", _retries(bench) - retries, goal=("==", 0), args=args)
    if operators == "compiled":
        stats = torch._dynamo.utils.counters["stats"]
        bench.note("graphs", stats["unique_graphs"], predicted="1 or 2", args=args)
    _profile(steps, packed[-1], timed, args)
    return rate


def _flops(shape: Shape, packed: Sequence[Packed]) -> float:
    return train_flops(
        shape,
        tokens=sum(sum(batch.lengths) for batch in packed),
        squares=sum(n * n for batch in packed for n in batch.lengths),
        loss_tokens=sum(int((batch.targets != IGNORE).sum()) for batch in packed),
    )


def _memory(steps: Steps, packed: Sequence[Packed], model: Model, args: dict[str, Any]) -> None:
    bench = steps.bench
    train = steps.train.model_copy(update={"model": model})
    most = max(sum(batch.lengths) for batch in packed)
    told = memory(steps.shape, train.model_copy(update={"dropout": DROPOUT}), (), 1, most).total
    if bench.rehearses:
        bench.note("memory predicted", told / 2**30, "GiB", args=args)
        return
    share = bench.peak() / told
    bench.note(
        "peak / predicted", share, goal=(">=", 0.95), predicted=1.02, args={**args, "GiB": told / 2**30}
    )
    bench.note("peak / predicted, at most", share, goal=("<=", 1.05), args=args)
    reserved = torch.cuda.max_memory_reserved() / bench.peak()
    bench.note("reserved / peak", reserved, goal=("<=", 1.10), predicted=1.05, args=args)


def _retries(bench: Bench) -> int:
    return 0 if bench.rehearses else int(torch.cuda.memory_stats()["num_alloc_retries"])


def _profile(steps: Steps, batch: Packed, timed: Timed, args: dict[str, Any]) -> None:
    """Shares of a step by kind of kernel, and its waits."""
    bench = steps.bench
    with torch.profiler.profile() as profiled:
        steps.ours(batch)
    shares: dict[str, float] = {}
    kernels = 0
    for event in profiled.key_averages():
        spent = event.self_cpu_time_total if bench.rehearses else event.self_device_time_total
        kind = category(event.key)
        shares[kind] = shares.get(kind, 0.0) + spent
        kernels += event.count if spent else 0
    whole = sum(shares.values())
    for kind, spent in sorted(shares.items()):
        bench.note(f"share, {kind}", spent / whole, args=args)
    bench.note("kernels a step", kernels, args=args)
    if bench.rehearses:
        return
    bench.note("idle share", max(0.0, 1 - whole / 1e6 / timed.seconds), args=args)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        steps.ours(batch)
        torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(one.message) for one in caught)
    bench.note("waits for the GPU a step", waits, goal=("<=", 6), predicted="4 and DeepSpeed's", args=args)


def _peer(steps: Steps, target: int, ours: float) -> None:
    """Steps on padded batches, by transformers' forward and the same engine."""
    bench = steps.bench
    samples = steps.samples(target)
    with own_attention(steps.model.lm):
        timed = bench.timed(_each(steps.padded, samples), warm=WARM, runs=STEPS)
    counted = samples[-timed.runs :]
    tokens = sum(len(sample.input_ids) for batch in counted for sample in batch) / timed.runs
    rate = tokens / timed.seconds
    bench.note("tokens/s, padded peer", rate, timed=timed, args={"target": target})
    bench.note("times the padded peer", ours / rate, goal=(">=", USEFUL[target]), args={"target": target})
