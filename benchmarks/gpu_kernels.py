"""Stages `ceilings` and `attention` of benchmarks/gpu.py."""

from collections.abc import Sequence

import torch
from gpu_record import Bench, Timed, relative
from torch import Tensor

from rasterloom.train.model import attention
from rasterloom.train.model.attention import Segments, kernel_for, packed_attention

LENGTHS = (4128, 2362, 1093, 340, 64, 7, 1)
HEADS = ((32, 32, 128), (64, 8, 128), (4, 4, 32))
SPEED = (
    (15, 1093, 330, 250),
    (7, 2362, 380, 280),
    (4, 4128, 400, 300),
)  # sequences, length, goals in TFLOP/s


def ceilings(bench: Bench) -> None:
    """Rates of copies, and of the matrix products of a layer."""
    size = 2**16 if bench.rehearses else 2**31
    source = torch.randn(size, device=bench.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    timed = bench.timed(lambda: target.copy_(source))
    bench.note("copy", 2 * 2 * size / timed.seconds / 1e12, "TB/s", predicted=4.3, timed=timed)
    tokens, scale = 16_384, 64 if bench.rehearses else 1
    shapes = {
        "square": (8192, 8192, 8192),
        "q, k, v, o": (tokens, 4096, 4096),
        "gate, up": (tokens, 4096, 11_008),
        "down": (tokens, 11_008, 4096),
        "head": (2048, 4096, 65_536),
    }
    for name, (n, k, m) in shapes.items():
        _products(bench, name, max(1, n // scale), max(1, k // scale), max(1, m // scale))


def _products(bench: Bench, name: str, n: int, k: int, m: int) -> None:
    x, w, dy = (
        torch.randn(*shape, device=bench.device, dtype=torch.bfloat16) for shape in ((n, k), (m, k), (n, m))
    )
    flops = 2 * n * k * m
    for layout, work in (("forward", lambda: x @ w.T), ("dX", lambda: dy @ w), ("dW", lambda: dy.T @ x)):
        timed = bench.timed(work)
        rate = flops / timed.seconds / 1e12
        bench.note(f"product, {name}, {layout}", rate, "TFLOP/s", predicted=780, timed=timed)


def attend(bench: Bench) -> None:
    """Attention of ragged batches: correct, and fast."""
    kernel = kernel_for(bench.device, torch.bfloat16)
    bench.note("kernel", kernel, predicted="torch_varlen")
    lengths = [max(1, n // 32) for n in LENGTHS] if bench.rehearses else list(LENGTHS)
    for q_heads, k_heads, width in HEADS:
        for dtype, bound in ((torch.bfloat16, 1e-2), (torch.float32, 1e-5)):
            _correct(bench, lengths, (q_heads, k_heads, width), dtype, bound)
    _apart(bench, lengths)
    for count, length, forward, backward in SPEED:
        _speed(bench, count, 16 if bench.rehearses else length, forward, backward)


def _inputs(
    bench: Bench, tokens: int, heads: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    q_heads, k_heads, width = heads
    generator = torch.Generator(bench.device).manual_seed(0)
    made = []
    for count in (q_heads, k_heads, k_heads):
        x = torch.randn(1, count, tokens, width, device=bench.device, generator=generator).to(dtype)
        made.append(x.requires_grad_())
    return made[0], made[1], made[2]


def _run(lengths: Sequence[int], q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> list[Tensor]:
    """Output of attention, and the gradients of its inputs."""
    segments = Segments(lengths, q.device)
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, segments=segments, scaling=q.shape[-1] ** -0.5)
    return [out.detach(), *torch.autograd.grad((out * weight.to(out.dtype)).sum(), (q, k, v))]


def _exact(lengths: Sequence[int], q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> list[Tensor]:
    """The same in float64, each sequence alone."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    repeated = [x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v)]
    outs = []
    for a, b, c in zip(*(torch.split(x, list(lengths), dim=2) for x in (q, *repeated)), strict=True):
        scores = a @ b.transpose(2, 3) * q.shape[-1] ** -0.5
        causal = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril()
        outs.append((scores.masked_fill(~causal, -torch.inf).softmax(-1) @ c).transpose(1, 2))
    out = torch.cat(outs, dim=1)
    return [out.detach(), *torch.autograd.grad((out * weight.double()).sum(), (q, k, v))]


def _correct(
    bench: Bench, lengths: Sequence[int], heads: tuple[int, int, int], dtype: torch.dtype, bound: float
) -> None:
    q, k, v = _inputs(bench, sum(lengths), heads, dtype)
    weight = torch.randn(1, sum(lengths), heads[0], heads[2], device=bench.device)
    found, expected = _run(lengths, q, k, v, weight), _exact(lengths, q, k, v, weight)
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        args = {"heads": heads, "dtype": str(dtype)}
        bench.note(f"error of {name}", relative(one, other), goal=("<=", bound), args=args)
        bench.note(f"NaN in {name}", int(one.isnan().sum()), goal=("==", 0), args=args)


def _apart(bench: Bench, lengths: Sequence[int]) -> None:
    """Elements of other sequences that change with one sequence."""
    q, k, v = _inputs(bench, sum(lengths), HEADS[0], torch.bfloat16)
    weight = torch.randn(1, sum(lengths), HEADS[0][0], HEADS[0][2], device=bench.device)
    before = _run(lengths, q, k, v, weight)
    changed, first = 1, lengths[0]
    others = slice(0, first)
    with torch.no_grad():
        for x in (q, k, v):
            x[:, :, first : first + lengths[changed]] += 1
    after = _run(lengths, q, k, v, weight)
    same = [a[:, others] == b[:, others] for a, b in zip(before[:1], after[:1], strict=True)]
    same += [a[:, :, others] == b[:, :, others] for a, b in zip(before[1:], after[1:], strict=True)]
    wrong = sum(int((~part).sum()) for part in same)
    bench.note("bits that another sequence changes", wrong, goal=("==", 0))


def _speed(bench: Bench, count: int, length: int, forward: float, backward: float) -> None:
    heads = (32, 32, 128)
    lengths = [length] * count
    q, k, v = _inputs(bench, count * length, heads, torch.bfloat16)
    segments = Segments(lengths, bench.device)
    flops = 2 * count * length * length * heads[0] * heads[2]  # causal: half of two products
    args = {"sequences": count, "length": length}

    def run() -> Tensor:
        return packed_attention(torch.nn.Identity(), q, k, v, segments=segments, scaling=0.09)[0]

    def note(name: str, timed: Timed, times: float, goal: float | None) -> None:
        rate = times * flops / timed.seconds / 1e12
        bench.note(name, rate, "TFLOP/s", goal=(">=", goal) if goal else None, timed=timed, args=args)

    note("attention, forward", bench.timed(run), 1, forward)
    out = run()
    grad = torch.randn_like(out)
    back = bench.timed(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
    note("attention, backward", back, 2.5, backward)
    flat = [x[0].transpose(0, 1) for x in (q, k, v)]
    groups = bench.timed(lambda: attention._by_groups(flat[0], flat[1], flat[2], lengths, 0.09, 0.0))
    note("attention by SDPA, forward", groups, 1, None)
