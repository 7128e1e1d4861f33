"""Captions and columns in the files beside an image: .json, .txt, .caption.

Those of ``a.jpg`` are ``a.txt`` and ``a.jpg.txt``, with a suffix of upper or lower case.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rasterloom.recipe.sources import Source
from rasterloom.sources.files import SIDECARS
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row

MAX_SIDECAR_BYTES = 1_000_000

T = TypeVar("T")


def is_sidecar(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in SIDECARS


def folded(name: str) -> str:
    """Return a name with its last suffix in lower case."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def beside(image: str, there: Mapping[str, T]) -> dict[str, T]:
    """Return the sidecars of an image, in the order to be asked.

    They are known by their suffix beyond its stem.

    Args:
        there: what lies beside the image, by names that are `folded`.
    """
    return {suffix: there[name] for suffix, name in _names(image) if name in there}


def _names(image: str) -> Iterator[tuple[str, str]]:
    stem, own = os.path.splitext(image)
    for suffix in SIDECARS:
        for middle in dict.fromkeys(("", own)):
            yield f"{middle}.{suffix}", f"{stem}{middle}.{suffix}"


def columns_of(sidecars: Mapping[str, bytes | None], source: Source) -> dict[str, Any]:
    """Return the columns that sidecars give: those of the JSON, and the caption.

    The caption is the JSON's, or the first text where the JSON has none; a further text that is another
    stands under its suffix. None for a sidecar's bytes means that it could not be read, or is longer than
    ``MAX_SIDECAR_BYTES``.
    """
    values: dict[str, Any] = {}
    texts: dict[str, bytes] = {}
    for suffix, data in sidecars.items():
        if data is None:
            continue
        if suffix.endswith(".json"):
            values = {**_json(data), **values}
        else:
            texts[suffix] = data.removeprefix(b"\xef\xbb\xbf").strip()
    for number, (suffix, text) in enumerate(texts.items()):
        if values.get(source.caption) is None:
            values[source.caption] = text
        elif number and text not in (values[source.caption], next(iter(texts.values()))):
            values.setdefault(suffix, text)
    unread = [suffix for suffix, data in sidecars.items() if data is None]
    if unread:
        values.setdefault(UNUSABLE, f"its {unread[0]} cannot be read, or is over {MAX_SIDECAR_BYTES} bytes")
    return values


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {UNREADABLE: data[:10_000].decode("utf-8", "replace")}


def unusable(reason: str, values: dict[str, Any] | None = None) -> Row:
    """Return a row that gives no pair, and says why."""
    return Row({**(values or {}), UNUSABLE: reason})
