"""Files of an initial checkpoint, checked by their first and last bytes. Nothing here needs torch."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from rasterloom.utils.file_digests import file_digest, recalled, remember

SHOWN = 3  # names in an error
ONE_FILE = ("model.safetensors", "pytorch_model.bin")

UNREADABLE = "unreadable"  # in place of a digest

_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_LENGTH = 8  # bytes of a safetensors file that say how long its header is
_LONGEST_HEADER = 100_000_000  # as safetensors itself has it


def check_files(folder: Path) -> None:
    """Check that a checkpoint's weights are whole, without reading them.

    Raises:
        ValueError: a file is missing, empty, cut short, a git-lfs pointer or of no known format.
    """
    for name in weight_files(folder):
        check_file(folder / name)


def weights_digest(folder: Path) -> str:
    """Identify a checkpoint by its content: its config and weights, wherever they lie.

    A folder that is gone counts as what was last read there; the stage that needs it says that it is gone.
    """
    place = f"checkpoint {folder.absolute()}"
    try:
        config = read_object(folder / "config.json")
        files = sorted(file_digest(folder / name) for name in weight_files(folder))
    except (OSError, ValueError):
        known = recalled(place) if not folder.exists() else None
        return str(known["digest"]) if known else UNREADABLE
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    text = json.dumps([settings, files], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    remember(place, {"digest": digest})
    return digest


def weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights. Raises: ValueError, one is missing or the index unusable."""
    for name in ONE_FILE:
        if (folder / name).is_file():
            return [name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            of_tensor = read_object(index).get("weight_map")
            if not isinstance(of_tensor, dict) or not of_tensor:
                raise ValueError(f"train.init: {index} has no weight_map of tensors to files")
            files = sorted(set(of_tensor.values()))
            missing = [file for file in files if not (folder / file).is_file()]
            if missing:
                raise ValueError(f"train.init: {index} names files that are not there: {listed(missing)}")
            return files
    raise ValueError(
        f"train.init: no weights in {folder} (expected {' or '.join(ONE_FILE)}, or an index of several)"
    )


def check_file(file: Path) -> None:
    """Raise ValueError if a file of weights cannot be whole."""
    with file.open("rb") as opened:
        start = opened.read(64)
    _refuse_placeholder(file, start)
    if file.suffix == ".safetensors":
        _check_safetensors(file)
    elif is_zip(start) and not zipfile.is_zipfile(file):  # its directory is at the end
        raise cut_short(file)


def is_zip(start: bytes) -> bool:
    """True if a file begins as PyTorch's do since 1.6."""
    return start.startswith(_ZIP)


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint. Raises ValueError, which names the file."""
    data = file.read_bytes()
    _refuse_placeholder(file, data)
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"train.init: {file} holds no JSON object: download it again")
    return found


def cut_short(file: Path) -> ValueError:
    """Build the error of a file that is not whole."""
    return ValueError(f"train.init: {file} is cut short or damaged: download it again")


def listed(names: list[str]) -> str:
    """The first few names, and how many there are beside."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _refuse_placeholder(file: Path, start: bytes) -> None:
    if not start:
        raise ValueError(f"train.init: {file} is empty: download it again")
    if start.startswith(_LFS_POINTER):
        raise ValueError(
            f"train.init: {file} is a git-lfs pointer in place of the file: run `git lfs pull` in its folder"
        )


def _check_safetensors(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        if length > min(size - _LENGTH, _LONGEST_HEADER):
            raise cut_short(file)
        text = opened.read(length)
    try:
        tensors = json.loads(text)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise cut_short(file) from None
    if _LENGTH + length + max(ends, default=0) != size:
        raise cut_short(file)
