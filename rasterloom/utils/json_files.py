"""Strict JSON (RFC 8259), small files of it, and lines of text."""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def to_json(
    value: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """JSON text that every reader takes: what is not finite is null."""
    finite = _finite(value)
    return json.dumps(finite, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record under another name, then give it its own."""
    draft = path.with_name(f"writing-{path.name}")
    draft.write_text(to_json(record, indent=1))
    os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; FileNotFoundError if there is none."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def lines_of(text: str) -> list[str]:
    """Lines that end with \\n, \\r\\n or \\r alone, without their ends.

    ``str.splitlines`` also cuts at U+0085, U+2028 and others, which strings in JSON Lines may hold.
    """
    return io.StringIO(text, newline=None).read().split("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
