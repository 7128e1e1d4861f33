"""Locators: the place of an image in its source as text.

``<file>``, ``<file>#<offset>+<length>`` for a range of bytes, ``<file>#<row group>/<row>/<column>`` for a
cell of a Parquet file, ``#<shard>/<row>`` in a streamed data set. The file is relative to its source; what
would be ambiguous in its name is percent-encoded, so that any name a disk can hold comes back as it was.

Only the readers of this package write locators. They are never taken from a column of the user's, so a
list of URLs cannot name a file of this machine.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

_SPECIAL = re.compile("[%#\x00-\x1f\x7f\ud800-\udfff]")
_LOCATOR = re.compile(r"([^#]*)(?:#(?:(\d+)\+(\d+)|(\d+)/(\d+)(?:/([^#]+))?))?", re.ASCII)


@dataclass(frozen=True)
class Place:
    """A locator taken apart. Its numbers are (offset, length), (row group, row) or (shard, row)."""

    file: str
    first: int = 0
    second: int = 0
    is_range: bool = False
    column: str = ""


def of_file(name: str) -> str:
    return _SPECIAL.sub(_encode, name)


def of_range(name: str, offset: int, length: int) -> str:
    """Locate ``length`` bytes from byte ``offset`` on."""
    return f"{of_file(name)}#{offset}+{length}"


def of_cell(name: str, group: int, row: int, column: str) -> str:
    """Locate a cell of a Parquet file. ``row`` counts within the row group, ``column`` may be nested: a.b."""
    return f"{of_file(name)}#{group}/{row}/{of_file(column)}"


def of_streamed(shard: int, row: int) -> str:
    return f"#{shard}/{row}"


def parse(text: str) -> Place:
    """Take a locator apart. ValueError if it is none, or leads out of its source."""
    match = _LOCATOR.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} locates nothing")
    name, offset, length, group, row, column = match.groups()
    file = _decode(name)
    if file.startswith("/") or ".." in file.split("/") or "\0" in file:
        raise ValueError(f"{text!r} leads out of its source")
    if offset is not None:
        return Place(file, int(offset), int(length), is_range=True)
    if group is not None:
        return Place(file, int(group), int(row), column=_decode(column or ""))
    return Place(file)


def _encode(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _decode(name: str) -> str:
    return os.fsdecode(unquote_to_bytes(name))
