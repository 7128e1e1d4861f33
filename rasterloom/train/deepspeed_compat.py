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
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
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
    else:
        to_universal(source, target)
        step = _whole_shaped(target, engine, names)
    model = next(file for file in (source / _MODEL_FILE, source / _MODEL_SHARD) if file.exists())
    about = {name: value for name, value in _read(model).items() if name not in ("module", "optimizer")}
    for name in (_MODEL_FILE, _MODEL_SHARD):  # ZeRO 3 looks for the one, the others for the other
        torch.save(about, target / name)
    groups = [{n: v for n, v in group.items() if n != "params"} for group in engine.optimizer.param_groups]
    of_stage_3 = {"state": {0: {"step": step}}, "param_groups": groups}
    common = {"ds_version": about["ds_version"], "param_groups": groups, _OPTIMIZER: of_stage_3}
    torch.save(common, target / "zero" / "optimizer_state.pt")


def load_whole(engine: Any, folder: Path, names: Sequence[Sequence[str]]) -> None:
    """Load whole parameters (`to_whole`) into an engine of ZeRO 0. DeepSpeed itself does not."""
    for names_of, group in zip(names, engine.basic_optimizer.param_groups, strict=True):
        for name, parameter in zip(names_of, group["params"], strict=True):
            place = folder / "zero" / name
            parameter.data.copy_(_read_all(place / "fp32.pt")["param"])
            state = {key: _read_all(place / f"{key}.pt")["param"].to(parameter.device) for key in _MOMENTS}
            step = torch.as_tensor(_read_all(place / "step.pt"), dtype=torch.float32)
            engine.basic_optimizer.state[parameter] = {"step": step.to(parameter.device), **state}


def _split_plain(source: Path, target: Path, names: Sequence[Sequence[str]]) -> Any:
    """Write each parameter of a checkpoint of ZeRO 0. Returns the number of steps taken."""
    states = _read(source / _MODEL_FILE)
    of_optimizer = states["optimizer"]["state"]
    for number, name in enumerate(name for of_group in names for name in of_group):
        state = of_optimizer[number]
        if not set(_MOMENTS) <= set(state):  # Muon has other ones
            raise ValueError(
                "only AdamW's state can be converted for another ZeRO stage: set train.deepspeed.zero to 0, "
                "as the checkpoint has it"
            )
        _write_parameter(target, name, {"fp32": states["module"][name].float(), **state})
    return of_optimizer[0]["step"]


def _whole_shaped(target: Path, engine: Any, names: Sequence[Sequence[str]]) -> Any:
    """Give universal parameters the form of ZeRO 1 and 2. Returns the number of steps taken."""
    shapes = {
        name: whole_shape(parameter) if hasattr(parameter, "ds_shape") else tuple(parameter.shape)
        for name, parameter in engine.module.named_parameters()
    }
    for name in (name for of_group in names for name in of_group):
        place = target / "zero" / name
        found = {key: _read_all(place / f"{key}.pt") for key in ("fp32", *_MOMENTS)}
        whole = {key: value["param"] if isinstance(value, dict) else value for key, value in found.items()}
        if (place / "step.pt").exists():
            step = _read_all(place / "step.pt")
        else:  # of ZeRO 3, where all parameters have one
            step = _read_all(target / "zero" / "optimizer_state.pt")[_OPTIMIZER]["state"][0]["step"]
        tensors = {key: tensor.reshape(shapes[name]).clone() for key, tensor in whole.items()}
        _write_parameter(target, name, {**tensors, "step": step})
    return step


def _write_parameter(target: Path, name: str, state: dict[str, Any]) -> None:
    place = target / "zero" / name
    place.mkdir(parents=True, exist_ok=True)
    for key in ("fp32", *_MOMENTS):
        torch.save({"param": state[key].clone()}, place / f"{key}.pt")
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
    """A file that may be overwritten meanwhile."""
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
