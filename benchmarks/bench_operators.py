"""MFU on GPUs by the operators of a training step.

python benchmarks/bench_operators.py [--length 1093] [--tokens 16384]

It is a step of the 7B on the meta device, whose tensors have shapes and no numbers: forward and backward pass
run as on a GPU, with its kernel of attention, once with PyTorch's operators and once with Rasterloom's fused
kernels, and each is priced by the products or the bytes that it takes. Beside them stand the bytes of the
optimizer's side. What launches cost is not in it.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rasterloom.tokenize.profiles import CHAMELEON
from rasterloom.train.estimate.flops import peak_flops, train_flops
from rasterloom.train.model import attention, kernels
from rasterloom.train.model.activation_checkpointing import prepare_layers
from rasterloom.train.model.attention import Segments
from rasterloom.train.model.initialization import build_model
from rasterloom.train.model.packed_lm import PackedLM
from rasterloom.train.model.shapes import SIZES

NAME, DROPOUT = "7b", 0.05
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
STATES = 26  # bytes of a parameter that gradients and weights take on the optimizer's side of a step


@dataclass(frozen=True)
class Card:
    """Rates that a GPU reaches, per second."""

    products: float
    """FLOPs of large products of matrices in bf16."""
    forward: float
    """FLOPs of FlashAttention."""
    backward: float
    copies: float
    """Bytes read and written."""


CARDS = {
    "A100": Card(250e12, 190e12, 155e12, 1.7e12),
    "H100": Card(690e12, 380e12, 290e12, 2.9e12),
    "H200": Card(770e12, 380e12, 290e12, 4.3e12),
}


@dataclass(frozen=True)
class Work:
    """Work of a step."""

    products: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return self._with(other, lambda one, two: one + two)

    def __sub__(self, other: "Work") -> "Work":
        return self._with(other, lambda one, two: one - two)

    def times(self, factor: float) -> "Work":
        return self._with(self, lambda one, _: one * factor)

    def _with(self, other: "Work", operation: Callable[[float, float], float]) -> "Work":
        return Work(*(operation(getattr(self, name), getattr(other, name)) for name in vars(self)))

    def seconds(self, card: Card) -> float:
        return (
            self.products / card.products
            + self.forward / card.forward
            + self.backward / card.backward
            + self.bytes / card.copies
        )


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of operators.

    Args:
        squares: sum of the squares of the sequences' lengths.
    """

    def __init__(self, squares: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work, self.squares = Work(), squares

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        name = func.name().split(".")[0]
        if name in PRODUCTS:
            rows, inner = given[-2].shape[-2:]
            flops = 2.0 * rows * inner * given[-1].shape[-1] * prod(given[-2].shape[:-2])
            self.work += Work(products=flops)
        elif "varlen_attn" in name:
            flops = 2.0 * self.squares * prod(given[0].shape[1:])  # causal: half of two products
            backward = "backward" in name
            self.work += Work(backward=2.5 * flops) if backward else Work(forward=flops)
        elif not _is_view(func, given, made) and not name.startswith(("aten::empty", "aten::new_empty")):
            self.work += Work(bytes=float(sum(map(_bytes, [*given, *made]))))
        return found


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    if func._schema.is_mutable or not made:
        return False
    storages = {x.untyped_storage()._cdata for x in given}
    return all(x.untyped_storage()._cdata in storages for x in made)


def _bytes(tensor: Tensor) -> int:
    """Bytes that are touched: what is repeated is read once."""
    repeated = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if not stride)
    return tensor.numel() * tensor.element_size() // max(1, repeated)


class Launch:
    """Stand-in for a kernel of Triton: what it would read and write is added up, each tensor once."""

    count: Count

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **_: Any) -> None:
            touched = float(sum(_bytes(x) for x in args if isinstance(x, Tensor)))
            Launch.count.work += Work(bytes=touched)

        return launch


KERNELS = SimpleNamespace(
    **{
        f"{name}_{way}ward": Launch()
        for name in ("rms_norm", "gate", "norm_rotate")
        for way in ("for", "back")
    }
)


def counted(layers: int, remat: Any, lengths: list[int], *, fused: bool) -> Work:
    """Work of some layers, forward and backward, with the ends."""
    SIZES[NAME] = replace(SIZES[NAME], layers=layers)
    device = torch.device("meta")
    lm = build_model(NAME, CHAMELEON, device="meta").to(device, torch.bfloat16).requires_grad_()
    if fused:
        kernels.fuse(lm)
    prepare_layers(lm.model.layers, remat=remat, compiled=False)
    model = PackedLM(lm, DROPOUT).train()
    segments = Segments(lengths, device)
    ids = torch.zeros(sum(lengths), dtype=torch.int64, device=device)
    with Count(sum(n * n for n in lengths)) as count:
        Launch.count = count
        # As `PackedLM.forward`, but for the search for tokens with a target, whose number is a value.
        positions = segments.positions()[None]
        hidden = model.lm.model(
            input_ids=ids[None], position_ids=positions, use_cache=False, segments=segments
        ).last_hidden_state[0]
        model.lm.lm_head(hidden, ids, 1e-5).total.backward()
    work: Work = count.work
    return work


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--length", type=int, default=1093, help="of a sequence (default: %(default)s)")
    arguments.add_argument("--tokens", type=int, default=16_384, help="of a step (default: %(default)s)")
    options = arguments.parse_args()
    # Of a GPU that is not there:
    attention.kernel_for = lambda *_: "torch_varlen"  # type: ignore[assignment]
    kernels.takes = lambda *_: True
    sys.modules["rasterloom.train.model.triton_kernels"] = KERNELS  # type: ignore[assignment]
    shape = replace(SIZES[NAME], vocab=CHAMELEON.vocab_size)
    lengths = [options.length] * round(options.tokens / options.length)
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    needed = train_flops(shape, tokens=tokens, squares=squares, loss_tokens=tokens)
    print(
        "| operators | remat | " + " | ".join(CARDS) + " | products | attention | GB |\n" + "|---" * 8 + "|"
    )
    for fused, remat in product((False, True), ("none", "selective", "full")):
        one, three = (counted(layers, remat, lengths, fused=fused) for layers in (1, 3))
        layer = (three - one).times(0.5)
        work = one + layer.times(shape.layers - 1) + Work(bytes=float(STATES * shape.params))
        shares = (needed / (work.seconds(card) * (peak_flops(name) or 1)) for name, card in CARDS.items())
        parts = work.products / needed, (work.forward + work.backward) / needed
        cells = [f"{share:.1%}" for share in (*shares, *parts)]
        print(
            f"| {'kernels' if fused else 'eager'} | {remat} | "
            + " | ".join(cells)
            + f" | {work.bytes / 1e9:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
