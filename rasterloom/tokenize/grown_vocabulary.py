"""The vocabulary of a language model, grown by the tokens of images.

    the model's own ids | boi eoi eol | bos sep pad, where it lacks them | grid tokens | codes

They become special tokens of its tokenizer.json, which says by their names what ids all of them have; bos and
sep also stand in its template, and pad in its padding. So the file alone is the vocabulary, wherever it goes.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import tokenizers

from rasterloom.schema import Profile
from rasterloom.storage.layout import TOKENIZER, TOKENIZER_CONFIG
from rasterloom.tokenize.profiles import MOST_GRID_UNITS, profile_of
from rasterloom.tokenize.token_names import names_of

IMAGE_START = "<|rasterloom:boi|>"
ALIGN = 128  # rows of embeddings, of which there are a multiple
SPECIAL = {"bos": "bos_token", "sep": "eos_token", "pad": "pad_token"}
"""The model's own tokens that are used, by their names in a tokenizer_config.json."""
_FRAME = ("boi", "eoi", "eol")
_GRIDS = tuple(f"grid{units}" for units in range(MOST_GRID_UNITS + 1))


def token_name(what: str | int) -> str:
    """Name of a token of images: of ``boi``, of ``grid3``, or of a code by its number."""
    return IMAGE_START.replace("boi", str(what))


def is_grown(tokenizer_json: str) -> bool:
    """True if a tokenizer.json has tokens of images by these names."""
    return IMAGE_START in tokenizer_json


def read_tokenizer(place: str, codec: str) -> str:
    """Read a tokenizer.json, or that of a language model's folder.

    The latter grows by the tokens of a codec.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or what is in the folder is no tokenizer.
    """
    path = Path(place)
    if not path.is_dir():
        return path.read_bytes().decode()
    content = (path / TOKENIZER).read_bytes().decode()
    if is_grown(content):
        return content
    return _grown(content, tuple(special_ids(path, names_of(content)).items()), codec)


@lru_cache(maxsize=2)  # of a large vocabulary it takes seconds, and a run asks for it several times
def _grown(content: str, special: tuple[tuple[str, int], ...], codec: str) -> str:
    return grow(content, dict(special), codec)


def special_ids(folder: Path, names: Mapping[str, int]) -> dict[str, int]:
    """Ids of a model's own bos, sep and pad.

    The tokenizer's settings say them, else the model's config. Those that the model lacks are left out, and
    those that are another already.
    """
    settings = _read(folder / TOKENIZER_CONFIG)
    config = {} if settings else _read(folder / "config.json")
    found: dict[str, int] = {}
    for what in ("sep", "bos", "pad"):
        name = settings.get(SPECIAL[what])
        name = name.get("content") if isinstance(name, dict) else name
        ids = config.get(f"{SPECIAL[what]}_id")
        id_ = names.get(str(name)) if settings else (ids[0] if isinstance(ids, list) and ids else ids)
        if isinstance(id_, int) and id_ in names.values() and id_ not in found.values():
            found[what] = id_
    return found


def grow(tokenizer_json: str, special: Mapping[str, int], codec: str) -> str:
    """Return a tokenizer.json with tokens of images behind its own.

    Args:
        special: the ids that it has for bos, sep and pad, see `special_ids`.

    Raises:
        ValueError: the contents are no tokenizer, or its own ids have gaps.
    """
    data: dict[str, Any] = json.loads(tokenizer_json)
    names = names_of(tokenizer_json)
    of_id = {id_: name for name, id_ in names.items()}
    first = 1 + max(of_id)
    missing = [what for what in SPECIAL if what not in special]
    new = [*_FRAME, *missing, *_GRIDS, *map(str, range(profile_of(codec).codebook_size))]
    used = {what: of_id[id_] for what, id_ in special.items()} | {what: token_name(what) for what in missing}
    ids = names | {token_name(what): first + number for number, what in enumerate(new)}
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": first + number, "content": token_name(what), **kinds} for number, what in enumerate(new)]
    data["added_tokens"] = [*(data.get("added_tokens") or ()), *added]
    data["post_processor"] = _template(used["bos"], used["sep"], ids)
    data["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": ids[used["pad"]],
        "pad_type_id": 0,
        "pad_token": used["pad"],
    }
    content = json.dumps(data, ensure_ascii=False)
    try:
        opened: Any = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"not a tokenizer.json: {error}") from None
    last = token_name(new[-1])
    if opened.token_to_id(last) != ids[last]:
        raise ValueError(f"its ids have gaps: {last} would be {opened.token_to_id(last)}, not {ids[last]}")
    return content


def grown_profile(tokenizer_json: str, codec: str) -> Profile:
    """Return the ids of a grown tokenizer.json.

    Raises:
        ValueError: they are those of another codec.
    """
    base, names = profile_of(codec), names_of(tokenizer_json)
    codes = next(code for code in count() if token_name(code) not in names)
    if codes != base.codebook_size:
        raise ValueError(f"it has tokens of {codes} codes, but {codec} has {base.codebook_size}")
    data = json.loads(tokenizer_json)
    bos, sep = (next(iter(data["post_processor"]["single"][at].values()))["id"] for at in (0, -1))
    frame: dict[str, Any] = {what: names[token_name(what)] for what in _FRAME}
    return replace(
        base,
        **frame,
        bos=names[bos],
        sep=names[sep],
        pad=data["padding"]["pad_id"],
        grid0=names[token_name(_GRIDS[0])],
        image0=names[token_name(0)],
        image_ids=None,
        text0=0,
        vocab_size=-(-(1 + max(names.values())) // ALIGN) * ALIGN,
    )


def _template(bos: str, sep: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """Post-processor that writes a conversation: bos message sep, and then an answer and sep."""
    first, last = ({"SpecialToken": {"id": name, "type_id": 0}} for name in (bos, sep))
    message, answer = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [first, message, last],
        "pair": [first, message, last, answer, last],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (bos, sep)},
    }


def _read(file: Path) -> dict[str, Any]:
    """A JSON object. Empty if there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
