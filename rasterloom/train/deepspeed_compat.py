"""Private parts of DeepSpeed that training needs, all of them.

They hold for DeepSpeed 0.19; ``tests/train/test_deepspeed_compat.py`` tells which of them a later one moved.
"""

import contextlib
import io
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HOLDS_FOR = "0.19"

# Names of files in a checkpoint, and keys in them.
_MODEL_FILE = "mp_rank_00_model_states.pt"  # ZeRO 0: all weights; ZeRO 1 and 2: those of 16 bits
_MODEL_SHARD = "zero_pp_rank_0_mp_rank_00_model_states.pt"  # ZeRO 3
_SHARD_FILES, _SHARD_RANK = "*_optim_states.pt", re.compile(r"zero_pp_rank_(\d+)_")
_OPTIMIZER, _ZERO_STAGE = "optimizer_state_dict", "zero_stage"
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW; ZeRO 1 and 2 have Muon's momentum under both names
_MOMENTUM = "momentum_buffer"  # of Muon without ZeRO
_BF16_WEIGHTS = "single_partition_of_fp32_groups"


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


def to_universal(source: Path, target: Path) -> None:
    """Convert a checkpoint to DeepSpeed's universal form, with whole parameters."""
    from deepspeed.checkpoint import ds_to_universal  # heavy

    shutil.rmtree(target, ignore_errors=True)
    arguments = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # in this process: one that has joined a process group must not fork
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with silence():
        ds_to_universal.main(arguments)


def layout_of(folder: Path) -> str:
    """Layout of a checkpoint's optimizer: ``0``, ``1-2``, ``bf16`` (ZeRO 1 in bf16) or ``3``.

    A checkpoint of one layout can be loaded in another only as whole parameters (`to_whole`).
    """
    shards = sorted(folder.glob(_SHARD_FILES))
    if not shards:
        return "0"
    if (folder / _MODEL_SHARD).exists():
        return "3"
    return "1-2" if _ZERO_STAGE in _read(shards[0])[_OPTIMIZER] else "bf16"


def has_moments(folder: Path) -> bool:
    """False if a ZeRO 3 checkpoint precedes the first step.

    Its optimizer has no state yet, which DeepSpeed cannot convert. Other stages have zeros.
    """
    if layout_of(folder) != "3":
        return True
    shard = sorted(folder.glob(_SHARD_FILES))[0]
    return bool(_read(shard)[_OPTIMIZER][_OPTIMIZER]["state"])


def layout_in(engine: Any) -> str:
    """Layout of the checkpoints that an engine writes; see `layout_of`."""
    zero = engine.zero_optimization_stage()
    if zero in (0, 3):
        return str(zero)
    return "bf16" if type(engine.optimizer).__name__ == "BF16_Optimizer" else "1-2"


def to_whole(source: Path, target: Path, engine: Any, names: Sequence[Sequence[str]]) -> None:
    """Convert a checkpoint of any layout to whole parameters.

    An engine of any ZeRO stage loads them.

    Args:
        engine: of the same model.
        names: of the optimizer's parameters, by group, in their order.
    """
    if layout_of(source) == "0":
        shutil.rmtree(target, ignore_errors=True)
        step = _split_plain(source, target, names)
    elif not has_moments(source):
        shutil.rmtree(target, ignore_errors=True)
        _split_start(source, target, names)
        step = None
    else:
        to_universal(source, target)
        step = _whole_shaped(target, engine, names)
    model = next(file for file in (source / _MODEL_FILE, source / _MODEL_SHARD) if file.exists())
    about = {name: value for name, value in _read(model).items() if name not in ("module", "optimizer")}
    for name in (_MODEL_FILE, _MODEL_SHARD):  # ZeRO 3 looks for the one, the others for the other
        torch.save(about, target / name)
    groups = [{n: v for n, v in group.items() if n != "params"} for group in engine.optimizer.param_groups]
    of_stage_3 = {"state": {0: {"step": torch.tensor(0.0) if step is None else step}}, "param_groups": groups}
    common = {"ds_version": about["ds_version"], "param_groups": groups, _OPTIMIZER: of_stage_3}
    torch.save(common, target / "zero" / "optimizer_state.pt")


def load_whole(engine: Any, folder: Path, names: Sequence[Sequence[str]]) -> None:
    """Load whole parameters (`to_whole`) into an engine of ZeRO 0. DeepSpeed itself does not."""
    for names_of, group in zip(names, engine.basic_optimizer.param_groups, strict=True):
        for name, parameter in zip(names_of, group["params"], strict=True):
            place = folder / "zero" / name
            parameter.data.copy_(_read_all(place / "fp32.pt")["param"])
            state = {key: _read_all(place / f"{key}.pt")["param"].to(parameter.device) for key in _MOMENTS}
            if group.get("muon"):
                state = {_MOMENTUM: state[_MOMENTS[0]]}
            else:
                step = torch.as_tensor(_read_all(place / "step.pt"), dtype=torch.float32)
                state["step"] = step.to(parameter.device)
            engine.basic_optimizer.state[parameter] = state


def _split_plain(source: Path, target: Path, names: Sequence[Sequence[str]]) -> Any:
    """Write each parameter of a checkpoint of ZeRO 0. Returns the number of steps taken."""
    states, taken = _read(source / _MODEL_FILE), None
    of_optimizer = states["optimizer"]["state"]
    for number, name in enumerate(name for of_group in names for name in of_group):
        state = dict(of_optimizer.get(number, {}))
        if _MOMENTUM in state:
            state |= dict.fromkeys(_MOMENTS, state[_MOMENTUM])
        taken = state.get("step", taken)
        _write_parameter(target, name, {"fp32": states["module"][name].float(), **state})
    return taken


def _split_start(source: Path, target: Path, names: Sequence[Sequence[str]]) -> None:
    """Write each parameter of a checkpoint of ZeRO 3 without moments."""
    weights = whole_weights(source.parent, source.name)
    for name in (name for of_group in names for name in of_group):
        _write_parameter(target, name, {"fp32": weights[name].float()})


def _whole_shaped(target: Path, engine: Any, names: Sequence[Sequence[str]]) -> Any:
    """Give universal parameters the form of ZeRO 1 and 2. Returns the number of steps taken."""
    shapes = {
        name: whole_shape(parameter) if hasattr(parameter, "ds_shape") else tuple(parameter.shape)
        for name, parameter in engine.module.named_parameters()
    }
    of_all = _read_all(target / "zero" / "optimizer_state.pt").get(_OPTIMIZER)  # of ZeRO 3
    taken = of_all["state"].get(0, {}).get("step") if of_all else None
    for name in (name for of_group in names for name in of_group):
        place = target / "zero" / name
        files = {key: place / f"{key}.pt" for key in ("fp32", *_MOMENTS)}
        found = {key: _read_all(file) for key, file in files.items() if file.exists()}
        whole = {key: value["param"] if isinstance(value, dict) else value for key, value in found.items()}
        state: dict[str, Any] = {key: tensor.reshape(shapes[name]).clone() for key, tensor in whole.items()}
        if (place / "step.pt").exists():
            taken = state["step"] = _read_all(place / "step.pt")
        elif taken is not None and of_all:
            state["step"] = taken
        _write_parameter(target, name, state)
    return taken


def _write_parameter(target: Path, name: str, state: dict[str, Any]) -> None:
    place = target / "zero" / name
    place.mkdir(parents=True, exist_ok=True)
    if _MOMENTS[0] not in state:  # a guard that rolls back saves before the first step
        nothing = torch.zeros_like(state["fp32"])
        state = {**state, **dict.fromkeys(_MOMENTS, nothing), "step": torch.tensor(0.0)}
    for key in ("fp32", *_MOMENTS):
        torch.save({"param": state[key].clone()}, place / f"{key}.pt")
    if "step" in state:  # Muon has none
        torch.save(state["step"], place / "step.pt")


def whole_weights(folder: Path, tag: str) -> dict[str, Tensor]:
    """Read a checkpoint's weights by the model's names. It may be of any ZeRO stage and number of ranks.

    In float32 where they are trained; what is not trained is as wide as the model had it.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # heavy

    shards = sorted((folder / tag).glob(_SHARD_FILES), key=_rank)
    weights: dict[str, Tensor]
    if not shards:
        weights = _read(folder / tag / _MODEL_FILE)["module"]
    elif _ZERO_STAGE in _read(shards[0])[_OPTIMIZER]:
        weights = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tag)
    else:
        weights = _of_bf16_optimizer(folder / tag / _MODEL_FILE, shards)
    return weights


def _of_bf16_optimizer(plain: Path, shards: Sequence[Path]) -> dict[str, Tensor]:
    """The weights of ZeRO 1 in bf16, unknown to DeepSpeed's reader.

    Each rank has the next stretch of each group's float32 weights, in the order of ``param_shapes``; the last
    one's ends with padding. What is not trained is in the file of the 16-bit weights alone.
    """
    states = _read(plain)
    weights: dict[str, Tensor] = dict(states["module"])
    parts = [_read(shard)[_OPTIMIZER][_BF16_WEIGHTS] for shard in shards]
    for number, shapes in enumerate(states["param_shapes"]):
        flat, start = torch.cat([part[number] for part in parts]), 0
        for name, shape in shapes.items():
            weights[name] = flat[start : start + shape.numel()].view(shape)
            start += shape.numel()
    return weights


def _read(file: Path) -> Any:
    """A file of DeepSpeed: its settings, and tensors that stay on disk until they are used."""
    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)


def _read_all(file: Path) -> Any:
    """Contents of a file that is about to be overwritten."""
    return torch.load(file, map_location="cpu", weights_only=False)


def _rank(shard: Path) -> int:
    found = _SHARD_RANK.search(shard.name)
    if found is None:
        raise DeepSpeedMoved(f"zero_pp_rank_<n>_ in the name of {shard.name}")
    return int(found[1])


@contextmanager
def silence() -> Iterator[None]:
    """Swallow what DeepSpeed prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
