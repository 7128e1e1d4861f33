"""Files of DeepSpeed's checkpoints, read and converted at any number of ranks.

Their names and keys are private parts of DeepSpeed, as those in `deepspeed_compat` are.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rasterloom.train.deepspeed_compat import DeepSpeedMoved, whole_shape
from rasterloom.train.universal import to_universal

# Names of files in a checkpoint, and keys in them.
_MODEL_FILE = "mp_rank_00_model_states.pt"  # ZeRO 0: all weights; ZeRO 1 and 2: those of 16 bits
_MODEL_SHARD = "zero_pp_rank_0_mp_rank_00_model_states.pt"  # ZeRO 3, which has _MODEL_SHARDS
_MODEL_SHARDS = "zero_pp_rank_*_model_states.pt"
_SHARD_FILES, _SHARD_RANK = "*_optim_states.pt", re.compile(r"zero_pp_rank_(\d+)_")
_OPTIMIZER, _ZERO_STAGE = "optimizer_state_dict", "zero_stage"
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW; ZeRO 1 and 2 have Muon's momentum under both names
_MOMENTUM = "momentum_buffer"  # of Muon without ZeRO
_BF16_WEIGHTS = "single_partition_of_fp32_groups"


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

    layout, plain = layout_of(folder / tag), folder / tag / _MODEL_FILE
    if layout == "bf16":
        return _of_bf16_optimizer(plain, sorted((folder / tag).glob(_SHARD_FILES), key=_rank))
    weights: dict[str, Tensor] = {} if layout == "3" else _read(plain)["module"]
    if layout != "0":  # of ZeRO 1 it reads what is trained alone
        weights |= get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tag)
    return weights


def frozen_weights(folder: Path) -> Callable[[str], Tensor]:
    """Return a reader of a checkpoint's frozen weights by name. It reads one at a time, and nothing else."""
    states = [_read(file) for file in sorted(folder.glob(_MODEL_SHARDS), key=_rank)]
    if not states:
        whole: dict[str, Tensor] = _read(folder / _MODEL_FILE)["module"]
        return whole.__getitem__

    def gathered(name: str) -> Tensor:
        shape = states[0]["frozen_param_shapes"][name]
        flat = torch.cat([state["frozen_param_fragments"][name].view(-1) for state in states])
        return flat[: shape.numel()].view(shape)

    return gathered


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
