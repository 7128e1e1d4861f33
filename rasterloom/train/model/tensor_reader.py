"""Reading of checkpoints tensor by tensor, with one-line errors.

Names are those of transformers' Chameleon, which are also those of Lumina-mGPT's checkpoints. The files may
be safetensors or PyTorch's, one or many. No more than a tensor is in memory at a time.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

SHOWN = 3  # names in an error
ONE_FILE = ("model.safetensors", "pytorch_model.bin")
NOT_NEEDED = ("model.vqmodel.", "rotary_emb.inv_freq")
"""Parts of names of what a language model needs not: the image encoder, and constants."""


class StoredTensors:
    """The tensors in the folder of a checkpoint, by name."""

    def __init__(
        self, folder: Path, shapes: Mapping[str, tuple[int, ...]], of_file: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.shapes = shapes
        self._of_file = of_file

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError naming missing, surplus or misshapen tensors."""
        problems = {
            "missing": [name for name in wanted if name not in self.shapes],
            "of no use": [name for name in self.shapes if name not in wanted],
            "of another shape": [
                f"{name} {list(self.shapes[name])} where the model has {list(shape)}"
                for name, shape in wanted.items()
                if name in self.shapes and not _fits(name, self.shapes[name], shape)
            ],
        }
        found = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        if found:
            raise ValueError(f"train.init: the tensors in {self.folder} do not fit its config.json: {found}")

    def read(self, wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor, file by file; `check` first."""
        for file in sorted(set(self._of_file.values())):
            with _opened(self.folder / file) as get:
                for name in (name for name in wanted if self._of_file[name] == file):
                    yield name, _fitted(get(name), wanted[name]).to(dtype)


def open_weights(folder: Path) -> StoredTensors:
    """Find the tensors of a checkpoint; reads headers alone.

    Raises:
        ValueError: there are no weights in the folder, or a file that its index names is missing.
    """
    shapes, of_file = {}, {}
    for file in _files(folder):
        for name, shape in _shapes(folder / file).items():
            if not any(part in name for part in NOT_NEEDED):
                shapes[name], of_file[name] = shape, file
    return StoredTensors(folder, shapes, of_file)


def _files(folder: Path) -> list[str]:
    for name in ONE_FILE:
        if (folder / name).is_file():
            return [name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [file for file in files if not (folder / file).is_file()]
            if missing:
                raise ValueError(f"train.init: {index} names files that are not there: {_listed(missing)}")
            return files
    raise ValueError(
        f"train.init: no weights in {folder} (expected {' or '.join(ONE_FILE)}, or an index of several)"
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return {name: tuple(tensor.shape) for name, tensor in _pytorch(file).items()}


def _pytorch(file: Path) -> dict[str, Tensor]:
    """Tensors of PyTorch's own format, on disk until used."""
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return tensors


@contextmanager
def _opened(file: Path) -> Iterator[Callable[[str], Tensor]]:
    """A file of tensors, as a function from name to tensor."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            yield opened.get_tensor
    else:
        yield _pytorch(file).__getitem__


def _is_head_norm(name: str) -> bool:
    return ".q_norm." in name or ".k_norm." in name


def _fits(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """True if a stored tensor fits the model's parameter.

    Lumina-mGPT keeps one row of a norm for all the heads of a shard of Meta's; transformers one a head.
    """
    if _is_head_norm(name) and len(found) == len(wanted) == 2 and wanted[0] % found[0] == 0:
        return found[1] == wanted[1]
    return found == wanted


def _fitted(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) == wanted:
        return tensor
    return tensor.repeat_interleave(wanted[0] // tensor.shape[0], dim=0)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
