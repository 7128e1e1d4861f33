"""Profile of a training step, by kind of kernel."""

import torch

CATEGORIES = (
    # the first that has a part of the name of a kernel, or of an operator on the CPU
    ("attention", ("attention", "attn", "flash", "fmha")),
    ("matrix products", ("gemm", "aten::mm", "addmm", "aten::bmm", "cutlass", "nvjet", "xmma")),
    ("optimizer", ("adam", "multi_tensor", "_foreach", "lerp", "addcdiv", "addcmul")),
    ("softmax and sums", ("softmax", "logsumexp", "reduce", "sum", "norm", "mean")),
    ("copies", ("copy", "memcpy", "memset", "cat", "fill", "zero_")),
    ("look-ups", ("index", "gather", "scatter", "embedding")),
    ("element by element", ("elementwise", "mul", "add", "sub", "silu", "exp", "neg", "rsqrt", "pow", "div")),
)


def category(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, parts in CATEGORIES if any(part in name for part in parts)), "the rest")


def kernel_tables(profiled: torch.profiler.profile, *, on_gpu: bool) -> str:
    """Each kind's share of device time, and the longest kernels."""
    events = profiled.key_averages()
    times: dict[str, float] = {}
    for event in events:
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[category(event.key)] = times.get(category(event.key), 0.0) + spent
    whole = sum(times.values())
    lines = ["", "| part of our step | share |", "|---|---|"]
    for kind, spent in sorted(times.items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {spent / whole:.1%} |")
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return "\n".join([*lines, "", events.table(sort_by=order, row_limit=25)])
