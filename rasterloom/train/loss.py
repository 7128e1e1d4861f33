"""Cross-entropy and z-loss of the next token, without ever holding the logits of a whole batch.

    loss = sum over tokens of (-log p(target) + z_loss * logsumexp(logits)^2) / number of tokens

where both sums run over the tokens of the global batch, so that a token weighs the same on every rank
(the z term and its weight are those of Lumina-mGPT, arXiv 2408.02657).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25  # logits held at once: 128 MiB in fp32


def token_losses(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    vocab_size: int,
) -> tuple[Tensor, Tensor]:
    """Compute the two terms of the loss of each token.

    The logits of a chunk are computed again in the backward pass, unless one chunk holds all.

    Args:
        hidden: [n, d], last hidden states of the tokens that have a target.
        targets: [n] int64.
        head: maps [m, d] to logits [m, vocab_size].

    Returns:
        (-log p(target), logsumexp(logits)^2), each [n] float32.
    """
    chunk = max(1, chunk_elements // vocab_size)
    if len(targets) <= chunk:
        return _chunk(hidden, targets, head)
    parts = [
        checkpoint(_chunk, h, t, head, use_reentrant=False)
        for h, t in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    ]
    nll, z = zip(*parts, strict=True)
    return torch.cat(nll), torch.cat(z)


def _chunk(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float()
    log_sum = logits.logsumexp(dim=-1)
    return log_sum - logits.gather(-1, targets[:, None]).squeeze(-1), log_sum.square()
