"""Muon (Jordan et al. 2024) for the matrices of a model, AdamW for the rest, as one optimizer.

Muon's step is the momentum of a matrix with all its singular values set to about one, so that directions
with rare gradients are learnt as fast as others. It is scaled to the size of AdamW's usual steps
(Liu et al. 2025, arXiv 2502.16982), so that both go by one learning rate.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
RMS_OF_ADAMW = 0.2
ROUNDS = 5


class Muon(torch.optim.AdamW):
    """Takes AdamW's parameter groups; those with ``muon: True`` hold matrices [rows, columns], or weights of
    convolutions, which are taken as matrices [outputs, inputs x kernel]."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike = defaultdict(list)  # matrices of one shape are worked on together
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape].append(p)
        for params in alike.values():
            directions = []
            for p in params:
                state = self.state[p]
                if not state:  # AdamW looks for a count of steps in every state that it loads
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
                state["step"] += 1
                momentum = state["momentum"]
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                directions.append(p.grad.lerp(momentum, MOMENTUM).flatten(1))
            scale = RMS_OF_ADAMW * max(directions[0].shape) ** 0.5
            for p, update in zip(params, orthogonal(torch.stack(directions)), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Near the closest matrices with orthonormal rows (or columns, if there are fewer): [n, rows, columns].

    A Newton-Schulz iteration of degree five; singular values end between about 0.7 and 1.2.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
