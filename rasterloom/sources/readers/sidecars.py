"""Captions and columns in .txt and .json files beside an image."""

import json
from typing import Any

from rasterloom.recipe.sources import Source
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row

MAX_SIDECAR_BYTES = 1_000_000


def columns_of(sidecars: dict[str, bytes | None], source: Source) -> dict[str, Any]:
    """Return the columns that sidecars give: those of the JSON, and the caption.

    The caption is the JSON's, or the text where the JSON has none. None for a sidecar's bytes means that
    it could not be read, or is longer than ``MAX_SIDECAR_BYTES``.
    """
    values: dict[str, Any] = {}
    if (data := sidecars.get("json")) is not None:
        try:
            found = json.loads(data.decode("utf-8-sig", "surrogateescape"))
        except (ValueError, RecursionError):
            found = None
        values = found if isinstance(found, dict) else {UNREADABLE: data[:10_000].decode("utf-8", "replace")}
    text = sidecars.get("txt")
    if text is not None and values.get(source.caption) is None:
        values[source.caption] = text.removeprefix(b"\xef\xbb\xbf").strip()
    unread = [suffix for suffix, data in sidecars.items() if data is None]
    if unread:
        values.setdefault(UNUSABLE, f"its .{unread[0]} cannot be read, or is over {MAX_SIDECAR_BYTES} bytes")
    return values


def unusable(reason: str, values: dict[str, Any] | None = None) -> Row:
    """Return a row that gives no pair, and says why."""
    return Row({**(values or {}), UNUSABLE: reason})
