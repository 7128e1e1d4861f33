"""Muon (Jordan et al. 2024) for the matrices of the layers and AdamW for the rest, as one optimizer.

Both are torch's. Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so
that both go by one learning rate.

ZeRO 1 and 2 give a rank one flat partition of a group, in place of its matrices. Momentum is elementwise and
stays with the partition. Each rank orthogonalizes the matrices that it has a part of; those that lie on a
border between ranks are put together first. DeepSpeed's own Muon is not used: it clips Muon's updates in
place of the gradients, so that its steps would differ from those without ZeRO.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rasterloom.train.deepspeed_compat import FlatPlace, flat_place
from rasterloom.train.distributed import gathered

SCALING = "match_rms_adamw"
_OLD_MOMENTUM, _MOMENTUM = "momentum", "momentum_buffer"
# Momentum of a partition: DeepSpeed's conversion to other numbers of ranks knows AdamW's names alone, and
# wants both.
_FLAT_MOMENTUM, _ITS_DOUBLE = "exp_avg", "exp_avg_sq"


@dataclass(frozen=True)
class _Matrix:
    shape: torch.Size
    place: FlatPlace
    """Of this rank's part."""
    is_cut: bool
    """No rank has all of it."""


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer over parameter groups, of which those with ``muon: True`` hold matrices [rows, columns].

    The two members share its groups and its state, so that DeepSpeed sees, and saves, one plain optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {})
        self._members: list[torch.optim.Optimizer] = []
        self._cut: dict[int, list[_Matrix]] = {}
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

    def shard(self, parameters: Sequence[Sequence[Tensor]]) -> None:
        """Note where ZeRO has put the matrices; every rank calls this.

        Args:
            parameters: those that were in each group.
        """
        for group, matrices in zip(self.param_groups, parameters, strict=True):
            if not group["muon"]:
                continue
            places = [flat_place(matrix) for matrix in matrices]
            most = [max(sizes) for sizes in zip(*gathered([place.size for place in places]), strict=True)]
            (partition,) = group["params"]
            self._cut[id(partition)] = [
                _Matrix(matrix.shape, place, size < matrix.numel())
                for matrix, place, size in zip(matrices, places, most, strict=True)
            ]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share()  # ZeRO 1 and 2 leave one group at a time
        for member in self._members:
            if self._cut and isinstance(member, torch.optim.Muon):
                for group in member.param_groups:
                    self._step_partition(group)
            else:
                member.step()
        return loss

    def _step_partition(self, group: dict[str, Any]) -> None:
        """Take the step of `torch.optim.Muon` with a group's partition."""
        (partition,) = group["params"]
        gradient, state, lr = partition.grad, self.state[partition], group["lr"]
        if gradient is None:
            return
        if not state:
            state[_FLAT_MOMENTUM] = torch.zeros_like(partition)
        state[_ITS_DOUBLE] = state[_FLAT_MOMENTUM]
        momentum = state[_FLAT_MOMENTUM].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"])
        partition.mul_(1 - lr * group["weight_decay"])
        for matrix in self._cut[id(partition)]:
            at = matrix.place
            whole = _whole(matrix, update[at.start : at.start + at.size])
            if whole is not None:
                change = _orthogonal_change(whole, group).view(-1)
                partition[at.start : at.start + at.size] += change[at.begins : at.begins + at.size]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state, also one of the Muon that Rasterloom had before."""
        super().load_state_dict(_of_torch(state_dict, self.param_groups))
        self._share()


def _whole(matrix: _Matrix, part: Tensor) -> Tensor | None:
    """The whole of a matrix of which this rank has a part. None if it has none."""
    if not matrix.is_cut:
        return part.view(matrix.shape) if matrix.place.size else None
    whole = part.new_zeros(matrix.shape.numel())
    whole[matrix.place.begins : matrix.place.begins + matrix.place.size] = part
    dist.all_reduce(whole)
    return whole.view(matrix.shape) if matrix.place.size else None


def _orthogonal_change(update: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The change by a step of `torch.optim.Muon` with this momentum."""
    change = torch.nn.Parameter(torch.zeros_like(update))
    change.grad = update
    given = {name: group[name] for name in ("lr", "eps", "ns_coefficients", "ns_steps", "adjust_lr_fn")}
    one = torch.optim.Muon([change], weight_decay=0.0, momentum=0.0, nesterov=False, **given)
    one.step()  # type: ignore[no-untyped-call]
    return change.detach()


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
