"""Private parts of DeepSpeed that training needs. Those of its files are in `deepspeed_files`.

They hold for DeepSpeed 0.19; ``tests/train/test_deepspeed_compat.py`` tells which of them a later one moved.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HOLDS_FOR = "0.19"


class DeepSpeedMoved(RuntimeError):
    """Raised where DeepSpeed lacks a private part that is needed."""

    def __init__(self, name: str) -> None:
        import deepspeed  # heavy

        super().__init__(
            f"DeepSpeed {deepspeed.__version__} has no {name}: Rasterloom takes DeepSpeed {HOLDS_FOR} "
            "(rasterloom/train/deepspeed_compat.py)"
        )


def without_shm_extension() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which takes a C++ compiler."""
    import deepspeed  # heavy

    try:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    except AttributeError:
        raise DeepSpeedMoved("deepspeed.ops.__compatible_ops__") from None


def whole_size(parameter: Tensor) -> int:
    """Elements of a parameter on all ranks. ZeRO 3 leaves a rank its share alone."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Shape of a parameter that ZeRO 3 has partitioned."""
    try:
        return tuple(parameter.ds_shape)  # type: ignore[attr-defined]
    except AttributeError:
        raise DeepSpeedMoved("ds_shape at the parameters of ZeRO 3") from None


def local_part(parameter: Tensor) -> Tensor:
    """This rank's share of a ZeRO 3 parameter. Of others all of it."""
    part: Tensor | None = getattr(parameter, "ds_tensor", None)
    if part is None:
        return parameter
    used = whole_size(parameter) - dist.get_rank() * part.numel()  # the rest is padding, which holds anything
    return part.view(-1)[: max(0, used)]


def set_whole(parameter: Tensor, value: Tensor | None) -> None:
    """Give a parameter rank 0's values. Every rank calls this."""
    if hasattr(parameter, "ds_id"):
        import deepspeed  # heavy

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if value is not None:
                parameter.data.copy_(value)
        return
    if value is not None:
        parameter.data.copy_(value)
    dist.broadcast(parameter.data, src=0)


def own_share(parameter: Tensor) -> tuple[int, Tensor] | None:
    """This rank's share of a trained parameter: its start, and float32 values.

    The start is that in the flat parameter. The shares of all ranks are the whole. Under ZeRO a rank has
    what it holds of the float32 weights, which may be nothing, or lie on the CPU; without, an even part.
    """
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_local_fp32_param  # heavy

        mine = safe_get_local_fp32_param(parameter).view(-1)
        start = dist.get_rank() * int(parameter.ds_tensor.numel())  # type: ignore[attr-defined]
        left = whole_size(parameter) - start  # the rest is padding
        return (start, mine[:left]) if left > 0 else None
    if hasattr(parameter, "_hp_mapping"):
        mapping: Any = parameter._hp_mapping
        return None if mapping is None else (int(mapping.lp_fragment_address.start), mapping.hp_fragment)
    most = -(-parameter.numel() // dist.get_world_size())
    start = dist.get_rank() * most
    part = parameter.view(-1)[start : start + most]
    return (start, part) if part.numel() else None


@torch.no_grad()
def set_own_share(parameter: Tensor, whole: Tensor) -> None:
    """Set this rank's share of a trained parameter's float32 values, under ZeRO.

    Args:
        whole: all of the parameter, [its shape].
    """
    flat = whole.reshape(-1)
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_set_local_fp32_param  # heavy

        size = int(parameter.ds_tensor.numel())  # type: ignore[attr-defined]
        mine = flat[dist.get_rank() * size :][:size]
        share = flat.new_zeros(size)  # of the last rank a part is padding
        share[: mine.numel()] = mine
        safe_set_local_fp32_param(parameter, share.to(parameter.device))
        return
    share_of = own_share(parameter)
    if share_of is not None:
        start, values = share_of
        values.copy_(flat[start : start + values.numel()])


@dataclass(frozen=True)
class FlatPlace:
    """Place of a part of a parameter in a rank's partition."""

    start: int
    """In the partition."""
    begins: int
    """In the flat parameter."""
    size: int


def flat_place(parameter: Tensor) -> FlatPlace:
    """Return the place of a parameter's part in this rank's partition.

    The partition is one of ZeRO 1 or 2, and may have nothing of the parameter.
    """
    try:
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    except AttributeError:
        raise DeepSpeedMoved("_hp_mapping at the parameters of ZeRO 1 and 2") from None
    if mapping is None:
        return FlatPlace(0, 0, 0)
    part = mapping.lp_fragment_address
    return FlatPlace(int(mapping.hp_fragment_address.start), int(part.start), int(part.numel))


class StepGate:
    """Stands before the optimizer's step in an engine, while it lasts.

    DeepSpeed computes the norm of the gradients within `engine.step`, just before that step, and has no hook
    between the two. ZeRO 3 may come through several times in one step, once for a group of parameters.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        try:
            optimizer = engine.basic_optimizer
            self._step: Callable[..., Any] = optimizer.step
        except AttributeError:
            raise DeepSpeedMoved("engine.basic_optimizer") from None
        self._is_open: Callable[[], bool] = lambda: True
        optimizer.step = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(*args, **kwargs) if self._is_open() else None

    @contextmanager
    def opened_by(self, decide: Callable[[], bool]) -> Iterator[None]:
        """Ask ``decide`` before each step in the block."""
        self._is_open = decide
        try:
            yield
        finally:
            self._is_open = lambda: True

    def norm(self) -> float:
        """The norm of this step's gradients, which ZeRO has just computed."""
        try:
            return float(self._engine.optimizer._global_grad_norm)
        except AttributeError:
            raise DeepSpeedMoved("_global_grad_norm at ZeRO's optimizers") from None


@contextmanager
def universal_loading(engine: Any) -> Iterator[None]:
    """Let an engine load checkpoints in DeepSpeed's universal form."""
    config: Any = getattr(engine, "_config", None)
    if not hasattr(config, "load_universal_checkpoint"):
        raise DeepSpeedMoved("engine._config.load_universal_checkpoint")
    config.load_universal_checkpoint = True
    try:
        yield
    finally:
        # Left on, ZeRO 3 would write checkpoints that lack the model's files.
        config.load_universal_checkpoint = False


@contextmanager
def files_given_to(engine: Any, take: Callable[[Any, Path], None]) -> Iterator[None]:
    """Let an engine give the contents of files away, unwritten.

    Args:
        take: is called with the contents of each file and its path.
    """
    writer: Any = getattr(engine, "checkpoint_engine", None)
    if not hasattr(writer, "save"):
        raise DeepSpeedMoved("engine.checkpoint_engine.save")
    writer.save = lambda state_dict, path: take(state_dict, Path(path))
    try:
        yield
    finally:
        del writer.save  # the class's own is there again


@contextmanager
def silence() -> Iterator[None]:
    """Swallow what DeepSpeed prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
