"""Muon (Jordan et al. 2024) for the matrices of the layers and AdamW for the rest, as one optimizer.

Both are torch's. Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so
that both go by one learning rate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

SCALING = "match_rms_adamw"
_OLD_MOMENTUM, _MOMENTUM = "momentum", "momentum_buffer"


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer over parameter groups, of which those with ``muon: True`` hold matrices [rows, columns].

    The two members share its groups and its state, so that DeepSpeed sees, and saves, one plain optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {})
        self._members: list[torch.optim.Optimizer] = []
        if matrices := [group for group in self.param_groups if group["muon"]]:
            self._members.append(torch.optim.Muon(matrices, lr=lr, adjust_lr_fn=SCALING))
        if others := [group for group in self.param_groups if not group["muon"]]:
            self._members.append(torch.optim.AdamW(others, lr=lr, betas=betas))
        self._share()

    def _share(self) -> None:
        """Give the members this optimizer's groups and state."""
        for member in self._members:
            is_muon = isinstance(member, torch.optim.Muon)
            member.param_groups = [group for group in self.param_groups if group["muon"] == is_muon]
            member.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self._members:
            member.step()
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state, also one of the Muon that Rasterloom had before."""
        super().load_state_dict(_of_torch(state_dict, self.param_groups))
        self._share()


def _of_torch(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The state under the names of torch's Muon. Settings that the old one did not have are today's."""
    state, saved = dict(state_dict["state"]), []
    for group, old in zip(groups, state_dict["param_groups"], strict=True):
        if not old["muon"] or "ns_steps" in old:
            saved.append(old)
            continue
        saved.append({**group, **{name: old[name] for name in ("params", "lr", "weight_decay")}})
        for number in old["params"]:
            if number in state:
                state[number] = {_MOMENTUM: state[number][_OLD_MOMENTUM]}
    return {**state_dict, "state": state, "param_groups": saved}
