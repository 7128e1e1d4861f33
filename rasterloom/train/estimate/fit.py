"""Fit of a stage into a GPU: choices that the recipe leaves open, and ways out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil

from rasterloom.recipe.train import Train
from rasterloom.train.estimate.memory import Memory, memory
from rasterloom.train.model.shapes import Shape

GIB = 2**30
# Memory of a GPU by the name that Ray has for it, in GiB as the driver tells: of each size that it comes in.
ACCELERATORS = {
    "T4": (14.6,),
    "V100": (15.8, 31.7),
    "A10G": (22.0,),
    "L4": (22.0,),
    "A100": (39.4, 79.1),
    "A100-40G": (39.4,),
    "A100-80G": (79.1,),
    "L40S": (44.4,),
    "H100": (79.1,),
    "H20": (95.1,),
    "H200": (139.8,),
    "B200": (178.4,),
}
SHARE, CONTEXT = 0.93, 1.5 * GIB  # of memory: what the allocator does not waste; of CUDA, NCCL and kernels
EFFICIENT = 8192  # tokens at once, from which on a larger micro-batch is hardly faster
STEP = 256  # tokens between the sizes that are tried
INDEXED = 2**30  # elements of queries at once: some kernels of attention count in 32 bits
WAYS_OUT = 3  # that are told of
OPERATORS = {"eager": "PyTorch's operators", "kernels": "fused kernels", "compiled": "compiled layers"}


@dataclass(frozen=True)
class Stage:
    """Input of the estimate of memory, beside the section `train`."""

    shape: Shape
    freeze: tuple[str, ...]
    workers: int
    longest: int
    """Tokens of the longest sequence."""

    def memory(self, train: Train, tokens: int) -> Memory:
        """Memory of a worker that computes so many tokens at once."""
        return memory(self.shape, train, self.freeze, self.workers, tokens)

    def share(self, train: Train) -> int:
        """Tokens of a worker's share of a batch: with the longest sequence, by which shares may differ."""
        return ceil(train.stages[0].batch_tokens / self.workers) + self.longest


def usable(gpu: float) -> float:
    """Bytes of a GPU's memory that training can fill."""
    return SHARE * gpu - CONTEXT


def settled(train: Train, stage: Stage, gpu: float | None) -> Train:
    """Settle ``micro_batch_tokens`` and ``model.remat`` where they are ``auto``.

    The least is computed again with which micro-batches of `EFFICIENT` tokens fit, else with which the
    longest sequence does; then as many tokens as fit. What cannot fit is left at the smallest.

    Args:
        train: its precision is settled.
        gpu: bytes of a GPU's memory; None: on a CPU, or not known: nothing is computed again, nor cut.
    """
    auto = train.micro_batch_tokens == "auto"
    if gpu is None:
        return _with(train, train.model.recomputed, train.tokens_at_once)
    share = stage.share(train)
    given = min(share, train.tokens_at_once or share)
    given_remat = train.model.remat
    choices = ["none", "selective", "full"] if given_remat == "auto" else [given_remat]
    for enough in (min(share, max(EFFICIENT, stage.longest)), stage.longest):
        for remat in choices:
            most = _most_tokens(_with(train, remat, None), stage, usable(gpu), share)
            if auto and most >= enough:
                return _with(train, remat, most if most < share else None)
            if not auto and most >= given:
                return _with(train, remat, train.tokens_at_once)
    return _with(train, choices[-1], stage.longest if auto else train.tokens_at_once)


def _with(train: Train, remat: str, tokens: int | None) -> Train:
    model = train.model.model_copy(update={"remat": remat})
    return train.model_copy(update={"model": model, "micro_batch_tokens": tokens})


def _most_tokens(train: Train, stage: Stage, room: float, share: int) -> int:
    """Most tokens that fit at once; 0 if none do."""
    most = min(share, INDEXED // stage.shape.queries)
    low, high = 0, ceil(most / STEP)
    while low < high:
        middle = (low + high + 1) // 2
        fits = stage.memory(train, min(most, middle * STEP)).total <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return min(most, low * STEP)


@dataclass(frozen=True)
class Fit:
    """Fit of a stage into a GPU."""

    gpu: float
    """Bytes of its memory."""
    train: Train
    """Settled."""
    tokens: int
    """At once, at most."""
    memory: Memory
    ways_out: tuple[str, ...]
    """Changes that make it fit; none where it does."""

    @property
    def is_there(self) -> bool:
        return self.memory.total <= usable(self.gpu)


def fit(train: Train, stage: Stage, gpu: float) -> Fit:
    """Fit a stage into a GPU's memory.

    Args:
        train: its precision is settled.
    """
    chosen, tokens, memory = _fullest(train, stage, gpu)
    out = () if memory.total <= usable(gpu) else tuple(islice(ways_out(train, stage, gpu), WAYS_OUT))
    return Fit(gpu, chosen, tokens, memory, out)


def _fullest(train: Train, stage: Stage, gpu: float) -> tuple[Train, int, Memory]:
    """Settings, tokens at once and memory of a worker."""
    chosen = settled(train, stage, gpu)
    share = stage.share(chosen)
    tokens = min(share, chosen.tokens_at_once or share)
    return chosen, tokens, stage.memory(chosen, tokens)


def _fits(train: Train, stage: Stage, gpu: float) -> bool:
    *_, memory = _fullest(train, stage, gpu)
    return memory.total <= usable(gpu)


def in_words(found: Fit) -> str:
    """Settings and memory of a stage that fits, in words."""
    most = found.train.tokens_at_once
    return (
        f"remat {found.train.model.recomputed} with {OPERATORS[found.train.model.operators]}, "
        f"{f'{most:,} tokens at once' if most else 'a whole share of a batch at once'}: "
        f"about {found.memory.total / GIB:,.1f} of {found.gpu / GIB:,.1f} GiB"
    )


def cannot_fit(found: Fit) -> str:
    """Reason why a stage does not fit, in words."""
    short = (
        f"a worker takes {found.memory.total / GIB:,.1f} GiB, and of a GPU with {found.gpu / GIB:,.1f} GiB "
        f"{max(0.0, usable(found.gpu)) / GIB:,.1f} can be used"
    )
    if not found.ways_out:
        return f"{short}; no other ZeRO stage, number of workers or GPU that is known would do"
    return f"{short}; it would fit with {'; or '.join(found.ways_out)}"


def ways_out(train: Train, stage: Stage, gpu: float) -> Iterator[str]:
    """Changes of a recipe that make a stage fit.

    Args:
        train: as the recipe has it, its precision settled.
    """
    model = train.model.model_copy(update={"remat": "auto"})
    auto = train.model_copy(update={"model": model, "micro_batch_tokens": "auto"})
    too = ""
    if auto != train:
        too = ", with train.micro_batch_tokens and train.model.remat: auto"
        if _fits(auto, stage, gpu):
            yield "train.micro_batch_tokens and train.model.remat: auto"
    for zero, offload in _shardings(train):
        sharded = train.deepspeed.model_copy(update={"zero": zero, "offload": offload})
        if _fits(auto.model_copy(update={"deepspeed": sharded}), stage, gpu):
            yield f"train.deepspeed: {{zero: {zero}{', offload: cpu' if offload else ''}}}{too}"
    for workers in (2**n for n in range(1, 11)):
        if workers > stage.workers and _fits(auto, replace(stage, workers=workers), gpu):
            yield f"run.train_workers: {workers}{too}"
            break
    for name, (least, *_) in ACCELERATORS.items():
        if least * GIB > gpu and _fits(auto, stage, least * GIB):
            yield f"run.steps.train.accelerator: {name}{too}"
            break


def _shardings(train: Train) -> Iterator[tuple[int, str | None]]:
    """Other ZeRO stages, and places of the optimizer."""
    if train.optimizer == "muon":
        return
    now = train.deepspeed
    for zero, offload in ((3, now.offload), (max(1, now.zero), "cpu"), (3, "cpu")):
        if (zero, offload) != (now.zero, now.offload) and not (zero == 3 and train.model.compile):
            yield zero, offload
