"""Exponential moving average (EMA) of a stage's trained weights.

Each rank averages the share of the weights that is its own: under ZeRO the float32 weights of its partition,
without ZeRO an even part of each parameter. So nothing is sent between ranks when the average is updated,
and a rank holds 4 bytes of each parameter, divided by the number of ranks, in CPU memory. A checkpoint has
the shares with their places, so that any number of ranks under any ZeRO stage can go on from them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rasterloom.errors import StorageError
from rasterloom.recipe.train import Ema
from rasterloom.train.deepspeed_compat import own_share, whole_shape, whole_size

Shares = dict[str, tuple[int, Tensor]]
"""Of each parameter, by the language model's name: where a share of it, flat, begins, and its values [n]."""


class WeightAverage:
    """Average of an engine's trained weights, of each rank its share."""

    def __init__(self, engine: Any, ema: Ema) -> None:
        """Begin with the weights as they are."""
        self._engine, self._ema = engine, ema
        self._shares: Shares = {}
        self.begin()

    def begin(self) -> None:
        """Forget the average, and begin with the weights as they are."""
        self._shares = {
            name: (start, values.detach().to("cpu", torch.float32, copy=True))
            for name, (start, values) in self._current().items()
        }

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if step % self._ema.every:
            return
        for name, (_, values) in self._current().items():
            average = self._shares[name][1]
            average.lerp_(values.detach().to("cpu", torch.float32), 1 - self._ema.decay)

    def save(self, folder: Path, write: Callable[[Any, Path], None] = torch.save) -> None:
        """Write this rank's shares into a checkpoint.

        Args:
            write: is called with the contents of the file and its path.
        """
        write(self._shares, folder / f"ema-{dist.get_rank()}.pt")

    def load(self, folder: Path) -> None:
        """Take over this rank's shares of a checkpoint, whatever ranks wrote it.

        Raises:
            StorageError: the checkpoint lacks some.
        """
        saved = _read(folder)
        for name, (start, values) in self._current().items():
            found = torch.empty(values.numel(), dtype=torch.float32)
            missing = found.numel()
            for begin, part in saved.get(name, ()):
                first, end = max(begin, start), min(begin + part.numel(), start + found.numel())
                if first < end:
                    found[first - start : end - start] = part[first - begin : end - begin]
                    missing -= end - first
            if missing:
                raise StorageError(f"{folder}: the average of {name} is not whole; delete this checkpoint")
            self._shares[name] = (start, found)

    def gather(self, *, keep: bool) -> dict[str, Tensor]:
        """Return the whole averages by name. Every rank calls this.

        Args:
            keep: return them; the other ranks take part and return nothing.
        """
        found = {}
        for name, parameter in _trained(self._engine).items():
            whole = torch.zeros(whole_size(parameter), device=self._engine.device)
            if name in self._shares:
                start, values = self._shares[name]
                whole[start : start + values.numel()] = values.to(whole.device)
            dist.all_reduce(whole)
            if keep:
                found[name] = whole.to("cpu").view(_shape(parameter)).clone()
        return found

    def _current(self) -> Shares:
        shares = {name: own_share(parameter) for name, parameter in _trained(self._engine).items()}
        return {name: share for name, share in shares.items() if share is not None}


def whole_average(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the averages in a checkpoint's folder. They are whole, by the language model's names.

    Args:
        shapes: of the model's parameters.

    Raises:
        ValueError: the checkpoint has none.
    """
    found = {}
    for name, parts in _read(folder).items():
        ordered = [part for _, part in sorted(parts, key=lambda part: part[0])]
        found[name] = torch.cat(ordered).view(shapes[name])
    if not found:
        raise ValueError(f"{folder.name} has no average of weights (train.ema)")
    return found


def _read(folder: Path) -> dict[str, list[tuple[int, Tensor]]]:
    """All shares of a checkpoint. They stay on disk until they are used."""
    found: dict[str, list[tuple[int, Tensor]]] = {}
    for file in sorted(folder.glob("ema-*.pt")):
        shares: Shares = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        for name, share in shares.items():
            found.setdefault(name, []).append(share)
    return found


def _trained(engine: Any) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(engine.module.lm.named_parameters())
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def _shape(parameter: Tensor) -> tuple[int, ...]:
    return whole_shape(parameter) if hasattr(parameter, "ds_id") else tuple(parameter.shape)
