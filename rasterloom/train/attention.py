"""Causal attention over a batch of sequences that are concatenated, not padded.

Registered with transformers as ``rasterloom_packed``: the layers' linear parts see one row of all tokens,
and only attention looks at where sequences begin and end. Sequences come sorted by length, so those of
similar length are neighbours; each such group is attended to in one call, as rows of one small batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "rasterloom_packed"
PADDING = 1.15  # how much longer than its shortest the longest sequence of a group may be


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: Sequence[int],
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each of the concatenated sequences.

    Args:
        query: [1, heads, tokens, width]; key and value alike, with as many or fewer heads.
        lengths: tokens of each sequence, in the order in which they are concatenated.

    Returns:
        [1, tokens, heads, width], and None where transformers expects attention weights.
    """
    parts = []
    for start, group in _groups(lengths):
        rows, longest, tokens = len(group), max(group), sum(group)
        flat = [x[0, :, start : start + tokens].transpose(0, 1) for x in (query, key, value)]
        even = min(group) == longest
        where = None if even else _places(group, query.device)
        q, k, v = (
            (x if where is None else x.new_zeros(rows * longest, *x.shape[1:]).index_copy(0, where, x))
            .view(rows, longest, *x.shape[1:])
            .transpose(1, 2)
            for x in flat
        )
        # Padding stands at the end of a row, where no token that comes before can see it.
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out = out.transpose(1, 2).reshape(rows * longest, *flat[0].shape[1:])
        parts.append(out if where is None else out.index_select(0, where))
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).unsqueeze(0), None


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Split neighbouring sequences of similar length into groups: (first token, lengths)."""
    start, group = 0, [lengths[0]]
    for length in lengths[1:]:
        if max(length, *group) > PADDING * min(length, *group):
            yield start, group
            start, group = start + sum(group), []
        group.append(length)
    yield start, group


def _places(group: Sequence[int], device: torch.device) -> Tensor:
    """Index of each token in the padded rows, [tokens]."""
    longest = max(group)
    return torch.cat([torch.arange(n, device=device) + i * longest for i, n in enumerate(group)])


AttentionInterface.register(NAME, packed_attention)
