"""Cross-entropy and z-loss without the logits of a whole batch.

    loss = sum over tokens of (-log p(target) + z_loss * logsumexp(logits)^2) / number of tokens

where both sums run over the tokens of the global batch, so that a token weighs the same on every rank
(the z term and its weight are those of Lumina-mGPT, arXiv 2408.02657).

All tokens weigh the same, so the gradients of a chunk are known as soon as its logits are, up to one factor
for all: they are computed in the forward pass, and the logits never again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rasterloom.train.model.shapes import LOGITS_AT_ONCE


class Losses(NamedTuple):
    total: Tensor
    """Sum over tokens of nll + z_loss * z, a scalar: the only one of the three to take gradients of."""
    nll: Tensor
    """-log p(target), [n] float32."""
    z: Tensor
    """logsumexp(logits)^2, [n] float32."""


class LossHead(nn.Linear):
    """The head of a language model, which also computes the loss.

    It does so itself, and not a function that is given its weight, so that DeepSpeed ZeRO-3 gathers the
    weight when it is called.
    """

    @classmethod
    def of(cls, head: nn.Linear) -> "LossHead":
        """A head that shares the weight of this one."""
        new = cls(head.in_features, head.out_features, bias=False, device="meta")
        new.weight = head.weight
        return new

    def forward(
        self,
        input: Tensor,
        targets: Tensor | None = None,
        z_loss: float = 0.0,
        chunk_elements: int = LOGITS_AT_ONCE,
    ) -> Any:
        """Compute logits, or with targets the `Losses`.

        Args:
            input: [..., d], last hidden states; with targets [n, d], of the tokens that have one.
            targets: [n] int64.
            z_loss: weight of the z term.
        """
        if targets is None:
            return linear(input, self.weight)
        return token_losses(input, self.weight, targets, z_loss=z_loss, chunk_elements=chunk_elements)


def token_losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    chunk_elements: int = LOGITS_AT_ONCE,
) -> Losses:
    """Compute tokens' losses, and their gradients where wanted.

    Args:
        hidden: [n, d], last hidden states of the tokens that have a target.
        weight: [vocabulary, d] of the head.
        targets: [n] int64.
        chunk_elements: logits that may be held at once.
    """
    chunk = max(1, chunk_elements // len(weight))
    return Losses(*_TokenLosses.apply(hidden, weight, targets, z_loss, chunk))  # type: ignore[no-untyped-call]


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        precise = torch.promote_types(hidden.dtype, torch.float32)
        nll = hidden.new_empty(len(hidden), dtype=precise)
        log_sums = torch.empty_like(nll)
        by_hidden = torch.empty_like(hidden) if wants_hidden else None
        by_weight = torch.zeros_like(weight, dtype=precise) if wants_weight else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            target = targets[part, None]
            logits = linear(hidden[part], weight).to(precise)
            log_sum = logits.logsumexp(dim=-1, keepdim=True)
            log_sums[part] = log_sum[:, 0]
            nll[part] = (log_sum - logits.gather(-1, target))[:, 0]
            if not wants_hidden and not wants_weight:
                continue
            # d nll = softmax - one-hot, and d logsumexp^2 = 2 logsumexp softmax
            by_logits = logits.sub_(log_sum).exp_().mul_(1 + 2 * z_loss * log_sum)
            by_logits.scatter_add_(-1, target, by_logits.new_full((), -1.0).expand_as(target))
            by_logits = by_logits.to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[part] = by_logits @ weight
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part]
            del logits, by_logits  # before the next ones are there
        z = log_sums.square()
        ctx.gradients, ctx.dtype = (by_hidden, by_weight), weight.dtype
        ctx.mark_non_differentiable(nll, z)
        return nll.sum() + z_loss * z.sum(), nll, z

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        by_hidden, by_weight = ctx.gradients
        del ctx.gradients  # as large as the head: they are scaled where they lie, once
        if by_hidden is not None:
            by_hidden.mul_(grad)
        if by_weight is not None:
            by_weight = by_weight.mul_(grad).to(ctx.dtype)
        return by_hidden, by_weight, None, None, None
