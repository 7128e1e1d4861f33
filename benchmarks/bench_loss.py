"""Cross-entropy and z-loss with their gradients, in one pass and otherwise: time and peak memory, as a table.

python benchmarks/bench_loss.py [--tokens 16384] [--vocab 65536] [--hidden 256] [--dtype float32]

Each way runs in a process of its own, so that its peak is its own; what a process needs that only makes the
inputs is taken off. The width hardly matters to the memory: it is the logits that are large.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy
from torch.utils.checkpoint import checkpoint

from rasterloom.train.model.loss import token_losses
from rasterloom.train.model.shapes import LOGITS_AT_ONCE

Z_LOSS = 1e-5
MEMORY_LEFT = 3 * 2**30  # for others: a way that needs more than the rest fails, and says so


def one_pass(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return token_losses(hidden, weight, targets, z_loss=Z_LOSS).total


def unchunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = linear(hidden, weight).float()
    z = logits.logsumexp(dim=-1).square().sum()
    return cross_entropy(logits, targets, reduction="sum") + Z_LOSS * z


def computed_again(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    chunk = LOGITS_AT_ONCE // len(weight)
    parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    losses = [checkpoint(unchunked, part, weight, target, use_reentrant=False) for part, target in parts]
    return torch.stack(losses).sum()


def torch_s_own(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    options = LinearCrossEntropyOptions()  # with it, it goes by chunks
    return linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def nothing(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    return (hidden[0, 0] * weight[0, 0]).float()


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "one pass (ours)": one_pass,
    "chunks computed again in the backward pass": computed_again,
    "torch's linear_cross_entropy (no z-loss)": torch_s_own,
    "all logits at once": unchunked,
}


def measure(way: Callable[[Tensor, Tensor, Tensor], Tensor], args: argparse.Namespace) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden, weight = (
        torch.randn(*shape, generator=generator).mul_(0.1).to(dtype).requires_grad_()
        for shape in ((args.tokens, args.hidden), (args.vocab, args.hidden))
    )
    targets = torch.randint(0, args.vocab, (args.tokens,), generator=generator)
    clock, cpu = time.perf_counter(), time.process_time()
    loss = way(hidden, weight, targets) / args.tokens
    loss.backward()
    return {
        "clock": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": float(loss.detach()),
    }


def in_a_process(name: str) -> dict[str, float] | None:
    """Measurement of a way, or None if memory does not suffice."""
    limit = psutil.virtual_memory().available - MEMORY_LEFT
    command = [sys.executable, __file__, *sys.argv[1:], "--way", name, "--limit", str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "can't allocate memory" in done.stderr:
        return None
    done.check_returncode()
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--vocab", type=int, default=65_536)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (args.limit, args.limit))
        print(json.dumps(measure({**WAYS, "nothing": nothing}[args.way], args)))
        return
    bare = in_a_process("nothing")
    assert bare is not None
    print(f"{args.tokens:,} tokens, vocabulary {args.vocab:,}, width {args.hidden}, {args.dtype}\n")
    print("| | peak, GiB | clock, s | CPU, s | loss |\n|---|---|---|---|---|")
    for name in WAYS:
        found = in_a_process(name)
        if found is None:
            print(f"| {name} | more than there was | | | |")
            continue
        peak = (found["peak"] - bare["peak"]) / 2**30
        print(f"| {name} | {peak:.2f} | {found['clock']:.1f} | {found['cpu']:.1f} | {found['loss']:.5f} |")


if __name__ == "__main__":
    main()
