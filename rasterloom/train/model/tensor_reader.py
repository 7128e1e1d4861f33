"""Reading of checkpoints tensor by tensor, with one-line errors.

Names are those of transformers, which are also those of Lumina-mGPT's checkpoints. The files may be
safetensors or PyTorch's, one or many. No more than a tensor is in memory at a time.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rasterloom.train.model.checkpoint_files import check_file, cut_short, is_zip, listed, weight_files
from rasterloom.train.model.shapes import EMBEDDING, HEAD

NOT_NEEDED = ("model.vqmodel.", "rotary_emb.inv_freq")
"""Parts of names of what a language model needs not: the image encoder, and constants."""


class StoredTensors:
    """The tensors in the folder of a checkpoint, by name."""

    def __init__(
        self, folder: Path, shapes: Mapping[str, tuple[int, ...]], of_file: Mapping[str, str], *, tied: bool
    ) -> None:
        """Note what is in the files.

        Args:
            tied: the head is the embedding, and stored under that name alone.
        """
        self._tied = tied
        self._is_tied = tied and HEAD not in shapes and EMBEDDING in shapes
        alias = {HEAD: EMBEDDING} if self._is_tied else {}
        self.folder = folder
        self.shapes = {**shapes, **{name: shapes[stored] for name, stored in alias.items()}}
        self._of_file = {**of_file, **{name: of_file[stored] for name, stored in alias.items()}}

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError naming missing, surplus or misshapen tensors."""
        problems = {
            "missing": [name for name in wanted if name not in self.shapes],
            "of no use": [
                name for name in self.shapes if name not in wanted and not (self._tied and name == HEAD)
            ],
            "of another shape": [
                f"{name} {list(self.shapes[name])} where the model has {list(shape)}"
                for name, shape in wanted.items()
                if name in self.shapes and not _fits(name, self.shapes[name], shape)
            ],
        }
        found = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        if found:
            raise ValueError(f"train.init: the tensors in {self.folder} do not fit its config.json: {found}")

    def read(self, wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor, file by file; `check` first."""
        for file in sorted(set(self._of_file.values())):
            with _opened(self.folder / file) as get:
                for name in (name for name in wanted if self._of_file[name] == file):
                    stored = EMBEDDING if name == HEAD and self._is_tied else name
                    yield name, _fitted(get(stored), wanted[name]).to(dtype)


def open_weights(folder: Path, *, tied: bool = False) -> StoredTensors:
    """Find the tensors of a checkpoint; reads headers alone.

    Args:
        tied: its config says that the head is the embedding.

    Raises:
        ValueError: there are no weights in the folder, or a file of them is missing or not whole.
    """
    shapes, of_file = {}, {}
    for file in weight_files(folder):
        for name, shape in _shapes(folder / file).items():
            if not any(part in name for part in NOT_NEEDED):
                shapes[name], of_file[name] = shape, file
    return StoredTensors(folder, shapes, of_file, tied=tied)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    check_file(file)
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return {name: tuple(tensor.shape) for name, tensor in _pytorch(file).items()}


def _pytorch(file: Path) -> dict[str, Tensor]:
    """Tensors of PyTorch's own format, on disk until used.

    Those of PyTorch before 1.6 cannot, and are all read.
    """
    with file.open("rb") as opened:
        mapped = is_zip(opened.read(4))
    try:
        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise cut_short(file) from None
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
