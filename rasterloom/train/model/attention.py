"""Causal attention over a batch of sequences that are concatenated, not padded.

Registered with transformers as ``rasterloom_packed``: the layers' linear parts see one row of all tokens,
and only attention looks at where sequences begin and end. `kernel_for` says what computes it.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from inspect import signature
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "rasterloom_packed"
PADDING = 1.15  # how much longer than its shortest the longest sequence of a group may be

Kernel = Literal["flash_attn_3", "flash_attn", "torch_varlen", "sdpa"]


@cache  # every layer asks, and the answer takes a look at the disk
def kernel_for(device: torch.device, dtype: torch.dtype) -> Kernel:
    """Kernel of attention: FlashAttention for ragged batches where it runs, else SDPA.

    They take 16-bit numbers and a GPU from Ampere on. FlashAttention 3 comes first, which takes Hopper's,
    then the package flash-attn, then the kernel that torch brings.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return "sdpa"
    if capability[0] == 9 and find_spec("flash_attn_interface"):
        return "flash_attn_3"
    if find_spec("flash_attn"):
        return "flash_attn"
    return "torch_varlen" if find_spec("torch.nn.attention.varlen") else "sdpa"


class Segments:
    """Boundaries of the sequences in a batch.

    Not a dataclass: torch.compile would compile anew for each.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Args: lengths: tokens of each sequence, in the order in which they are concatenated."""
        self.lengths = list(lengths)
        self.longest = max(self.lengths)
        bounds = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
        self.bounds = bounds.to(device, non_blocking=True)
        """[sequences + 1] int32: where each begins, and the end; FlashAttention's cu_seqlens."""

    def positions(self) -> Tensor:
        """Each token's place in its sequence, [tokens] int64."""
        total = sum(self.lengths)
        starts = self.bounds[:-1].repeat_interleave(self.bounds.diff(), output_size=total)
        return torch.arange(total, device=starts.device) - starts


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    segments: Segments,
    scaling: float,
    dropout: float = 0.0,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each of the concatenated sequences.

    transformers passes its attention mask as well; ``segments`` says all that is in it.

    Args:
        query: [1, heads, tokens, width]; key and value alike, with as many or fewer heads.
        dropout: of attention weights; SDPA alone can do it.

    Returns:
        [1, tokens, heads, width], and None where transformers expects attention weights.
    """
    kernel = "sdpa" if dropout else _kernel(query.device, query.dtype)
    # SDPA by groups sees the lengths, the others their bounds; all take [tokens, heads, width].
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if kernel == "flash_attn_3":
        out = _flash_attn_3(q, k, v, segments, scaling)
    elif kernel == "flash_attn":
        out = _flash_attn(q, k, v, segments, scaling)
    elif kernel == "torch_varlen":
        out = _torch_varlen(q, k, v, segments, scaling)
    else:
        out = _by_groups(q, k, v, segments.lengths, scaling, dropout)
    return out.unsqueeze(0), None


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # heavy

    out: Tensor = flash_attn_varlen_func(
        *(q, k, v, segments.bounds, segments.bounds, segments.longest, segments.longest),
        softmax_scale=scaling,
        causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out


def _flash_attn_3(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> Tensor:
    from flash_attn_interface import flash_attn_varlen_func  # heavy

    out = flash_attn_varlen_func(
        *(q, k, v, segments.bounds, segments.bounds, segments.longest, segments.longest),
        softmax_scale=scaling,
        causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    whole: Tensor = out[0] if isinstance(out, tuple) else out  # earlier versions give the log-sums as well
    return whole


def _torch_varlen(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scaling: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # heavy

    # torch 2.11 has no such argument, and takes fewer heads of keys without being told.
    grouped: dict[str, Any] = (
        {"enable_gqa": True} if q.shape[1] != k.shape[1] and _grouping_is_asked() else {}
    )
    out = varlen_attn(
        *(q, k, v, segments.bounds, segments.bounds, segments.longest, segments.longest),
        scale=scaling,
        window_size=(-1, 0),  # causal
        **grouped,
    )
    assert isinstance(out, Tensor)  # it can return more, if asked to
    return out


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _grouping_is_asked() -> bool:
    return _asks_for_grouping()


@cache
def _asks_for_grouping() -> bool:
    from torch.nn.attention.varlen import varlen_attn  # heavy

    return "enable_gqa" in signature(varlen_attn).parameters


def _by_groups(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scaling: float, dropout: float
) -> Tensor:
    """SDPA over groups of similar length, each a small batch.

    Sequences come sorted by length, so groups are few.
    """
    parts = []
    for start, group in _groups(lengths):
        rows, longest, tokens = len(group), max(group), sum(group)
        flat = [x[start : start + tokens] for x in (q, k, v)]
        even = min(group) == longest
        where = None if even else _padded_indices(group, q.device)
        rq, rk, rv = (
            (x if where is None else x.new_zeros(rows * longest, *x.shape[1:]).index_copy(0, where, x))
            .view(rows, longest, *x.shape[1:])
            .transpose(1, 2)
            for x in flat
        )
        # Padding stands at the end of a row, where no token that comes before can see it.
        out = scaled_dot_product_attention(
            rq, rk, rv, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out = out.transpose(1, 2).reshape(rows * longest, *flat[0].shape[1:])
        parts.append(out if where is None else out.index_select(0, where))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Split neighbouring sequences of similar length into groups: (first token, lengths)."""
    start, group = 0, [lengths[0]]
    for length in lengths[1:]:
        if max(length, *group) > PADDING * min(length, *group):
            yield start, group
            start, group = start + sum(group), []
        group.append(length)
    yield start, group


def _padded_indices(group: Sequence[int], device: torch.device) -> Tensor:
    """Index of each token in the padded rows, [tokens]."""
    longest = max(group)
    return torch.cat([torch.arange(n, device=device) + i * longest for i, n in enumerate(group)])


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _kernel(device: torch.device, dtype: torch.dtype) -> Kernel:
    return kernel_for(device, dtype)


_left_out = torch.compiler.disable(packed_attention)  # type: ignore[no-untyped-call]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
) -> tuple[Tensor, None]:
    """`packed_attention`, within what is compiled if its kernel is an operator.

    SDPA by groups is left out: its shapes change with every batch.
    """
    whole = not options.get("dropout") and _kernel(query.device, query.dtype) != "sdpa"
    found: tuple[Tensor, None] = (packed_attention if whole else _left_out)(
        module, query, key, value, *rest, **options
    )
    return found


AttentionInterface.register(NAME, _attention)
