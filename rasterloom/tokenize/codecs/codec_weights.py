"""Locations, formats and digests of the weights of published codecs.

What a recipe gives may be a file or a folder; which form it has is read off the files. Only the tensors of
the tokenizer network count and are read: of a Chameleon of 13 GB these are some 0.1 GB. Nothing here
imports torch but `read_tensors`, so that `plan` stays light.
"""

import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rasterloom.errors import one_line
from rasterloom.recipe.tokenize import HUB_ID, WEIGHTS
from rasterloom.tokenize.codecs.tensor_names import CODEBOOK, is_part, prefix_of

if TYPE_CHECKING:
    from torch import Tensor

SUBFOLDERS = ("movq", "vqvae", "tokenizer")  # of Kandinsky, of other pipelines, of Meta's release
EMU3 = ("emu3", "emu3_vqgan")  # model_type of transformers
OF_PIXELS = ("image_mean", "image_std")
OF_FILES = ("architectures", "dtype", "torch_dtype", "transformers_version")  # of a config, not of a network
_HUB_FILES = [  # of a whole pipeline, only what can be the tokenizer
    "config.json",
    "preprocessor_config.json",
    "*.index.json",
    "diffusion_pytorch_model.*",
    *(f"{folder}/*" for folder in SUBFOLDERS),
    "vqgan.ckpt",
    "vq_ds16_c2i.pt",
    "movqgan_270M.ckpt",  # SBER's repository holds smaller ones too
]


class Given(NamedTuple):
    """An id on the hub, as a recipe has it: ``owner/name``, or ``owner/name@revision``."""

    repo: str
    revision: str


@dataclass(frozen=True)
class Weights:
    """Files of a tokenizer network, and its config if any."""

    files: tuple[Path, ...]
    config: Path | None = None
    prefix: str = ""  # of the names in safetensors, such as ``model.vqmodel.``


class _Place(NamedTuple):
    """Place of a tensor in a safetensors file. Offsets in bytes from the start of the file."""

    file: Path
    name: str  # without its prefix
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _takes(codec: str) -> str:
    return f"codec {codec} takes {WEIGHTS[codec]}, or the id of one on the Hugging Face hub"


def codec_weights(codec: str, given: str) -> Weights:
    """Find the weights that a recipe gives. Those on the hub are downloaded, or taken from its cache.

    Raises:
        ValueError: nothing is there, or no tokenizer network is in it.
    """
    path = Path(given).expanduser()
    if path.is_file() and not _is_safetensors(path):
        return Weights((path,))
    if path.is_file():
        alone = _of_shards([path])
        if alone is None:
            raise ValueError(f"{path} holds no VQGAN: it has no codebook ({CODEBOOK})")
        return alone
    if path.is_dir():
        found = _in_folder(path)
        if found is None:
            there = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
            raise ValueError(
                f"no tokenizer network in {path}, which holds {there}; {_takes(codec)}. "
                "(Lumina-mGPT's own checkpoints leave it out: Chameleon's is the one they were made with.)"
            )
        return found
    return _from_hub(codec, _hub_id(codec, given))


def digest_of(codec: str, given: str) -> str:
    """Return a recipe's weights' sha256 without loading or downloading them.

    Of safetensors it takes the tensors of the network alone, wherever they lie; of another file all of its
    bytes; of weights on the hub their id and revision.

    Raises:
        ValueError: as `codec_weights`
    """
    if not Path(given).expanduser().exists():
        return hashlib.sha256("@".join(_hub_id(codec, given)).encode()).hexdigest()
    weights = codec_weights(codec, given)
    stats = [file.stat() for file in weights.files]
    return _digest(weights, tuple((s.st_size, s.st_mtime_ns) for s in stats))


@lru_cache(maxsize=16)
def _digest(weights: Weights, stats: tuple[tuple[int, int], ...]) -> str:
    result = hashlib.sha256()
    if weights.config:
        result.update(json.dumps(_identity_of(weights.config), sort_keys=True).encode())
    places = sorted(
        (
            place
            for file in weights.files
            if _is_safetensors(file)
            for place in _tensors(file, weights.prefix)
        ),
        key=lambda place: place.name,
    )
    for place in places:
        result.update(f"{place.name} {place.dtype} {place.shape}\n".encode())
        _add_bytes(result, place.file, place.start, place.end)
    for file in weights.files:
        if not _is_safetensors(file):
            _add_bytes(result, file, 0, file.stat().st_size)
    return result.hexdigest()


def settings_of(config: Path) -> dict[str, Any]:
    """Return the settings of a network and its pixels."""
    whole = _json(config)
    found = {
        name: value
        for name, value in whole.get("vq_config", whole).items()
        if not name.startswith("_") and name not in OF_FILES
    }
    processor = config.with_name("preprocessor_config.json")
    pixels = _json(processor) if processor.is_file() else {}
    return found | {name: pixels[name] for name in OF_PIXELS if name in pixels}


def _identity_of(config: Path) -> dict[str, Any]:
    """Settings in a codec's identity; of Emu3 what no shape says."""
    settings = settings_of(config)
    if settings.get("model_type") not in EMU3:
        return settings
    return {"num_attention_heads": 1} | {
        name: settings[name] for name in ("num_attention_heads", *OF_PIXELS) if name in settings
    }


def _add_bytes(result: Any, file: Path, start: int, end: int) -> None:
    with file.open("rb") as data:
        data.seek(start)
        while start < end:
            part = data.read(min(end - start, 2**20))
            if not part:
                raise ValueError(f"{file} ends before the tensors that its header names")
            result.update(part)
            start += len(part)


def read_tensors(weights: Weights) -> dict[str, "Tensor"]:
    """Return the network's fp32 tensors, by stored names without prefix.

    Raises:
        ValueError: a file cannot be read, or holds no VQGAN
    """
    found: dict[str, Tensor] = {}
    for file in weights.files:
        found |= _of_safetensors(file, weights.prefix) if _is_safetensors(file) else _of_pickle(file)
    return {name: tensor.float() for name, tensor in found.items()}


def _of_safetensors(file: Path, prefix: str) -> dict[str, "Tensor"]:
    from safetensors import safe_open  # heavy

    with safe_open(file, "pt") as data:
        return {place.name: data.get_tensor(prefix + place.name) for place in _tensors(file, prefix)}


def _of_pickle(file: Path) -> dict[str, "Tensor"]:
    import torch  # heavy

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file} holds more than tensors, which could run code as it is read. If you trust it, save "
            "its tensors alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: not the weights of a codec ({one_line(error, limit=200)})") from None
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    tensors = content if isinstance(content, dict) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    prefix = prefix_of(tensors)
    if prefix is None:
        raise ValueError(f"{file} holds no VQGAN: it has no codebook ({CODEBOOK})")
    stripped = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in stripped.items() if is_part(name)}


def _in_folder(folder: Path, deeper: bool = True) -> Weights | None:
    config = folder / "config.json"
    if config.is_file() and _json(config).get("_class_name") == "VQModel":
        if (pickle := folder / "diffusion_pytorch_model.bin").is_file() and not any(_safetensors(folder)):
            return Weights((pickle,), config)
        found = _of_shards(_safetensors(folder), config)
        if found is None:
            raise ValueError(f"{folder} has a config of diffusers' VQModel, but no diffusion_pytorch_model")
        return found
    of_emu3 = config.is_file() and _json(config).get("model_type") in EMU3
    if found := _of_shards(_safetensors(folder), config if of_emu3 else None):
        return found
    checkpoints = sorted([*folder.glob("*.ckpt"), *folder.glob("vq_ds*.pt")])
    if len(checkpoints) > 1:
        raise ValueError(
            f"{folder} holds several checkpoints: name one of {', '.join(map(str, checkpoints))}"
        )
    if checkpoints:
        return Weights((checkpoints[0],))
    for name in SUBFOLDERS if deeper else ():
        if (folder / name).is_dir() and (found := _in_folder(folder / name, deeper=False)):
            return found
    return None


def _safetensors(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _of_shards(files: list[Path], config: Path | None = None) -> Weights | None:
    """Those of some safetensors files that hold tensors of a VQGAN. None if none does."""
    names = {file: list(_header(file)[0]) for file in files}
    prefix = prefix_of(name for found in names.values() for name in found)
    if prefix is None:
        return None
    holds = [f for f, found in names.items() if any(_is_tensor(name, prefix) for name in found)]
    return Weights(tuple(holds), config, prefix)


def _is_tensor(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and is_part(name.removeprefix(prefix))


def _tensors(file: Path, prefix: str) -> Iterator[_Place]:
    header, start = _header(file)
    for name, entry in header.items():
        if _is_tensor(name, prefix):
            first, last = (start + offset for offset in entry["data_offsets"])
            yield _Place(file, name.removeprefix(prefix), entry["dtype"], tuple(entry["shape"]), first, last)


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Tensors' names, types, shapes and offsets, and the data's start."""
    try:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            header = json.loads(data.read(length))
        header.pop("__metadata__", None)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read {file}: {one_line(error, limit=200)}") from None
    return header, 8 + length


def _is_safetensors(file: Path) -> bool:
    return file.suffix == ".safetensors"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {one_line(error, limit=200)}") from None
    return found if isinstance(found, dict) else {}


def _shards_on_hub(folder: Path) -> list[str]:
    """The shards to download: those that hold a VQGAN's tensors, by the index that lies in the folder."""
    index = folder / "model.safetensors.index.json"
    places = _json(index).get("weight_map", {}) if index.is_file() else {}
    prefix = prefix_of(places)
    if prefix is None:
        return ["model.safetensors"] if (folder / "config.json").is_file() else []
    return sorted({file for name, file in places.items() if _is_tensor(name, prefix)})


def _hub_id(codec: str, given: str) -> Given:
    parts = HUB_ID.fullmatch(given)
    if not parts:
        raise ValueError(f"tokenize.weights: nothing at {given}; {_takes(codec)}")
    return Given(parts[1], parts[2] or "main")


def _from_hub(codec: str, given: Given) -> Weights:
    from huggingface_hub import snapshot_download  # heavy
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # heavy

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(given.repo, revision=given.revision, allow_patterns=patterns))

    try:
        folder = fetch(_HUB_FILES)
        if shards := _shards_on_hub(folder):
            fetch(shards)
        found = _in_folder(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"tokenize.weights: {given.repo} is no file here, and cannot be had from the Hugging Face hub "
            f"({one_line(error, limit=200)}); {_takes(codec)}"
        ) from None
    if found is None:
        raise ValueError(f"no tokenizer network in {given.repo} on the hub; {_takes(codec)}")
    return found
