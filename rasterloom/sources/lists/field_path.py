"""Fields within a column: ``text.long``, ``captions[0]``, ``captions[*]``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

_PART = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9}|\*)\]")
_START = re.compile(r"[^.\[\]]+")
EVERY = "*"  # of a list
EVERY_ITEM = -1  # the step ``[*]``
Step = str | int


@lru_cache(maxsize=256)
def steps_of(path: str) -> tuple[Step, ...]:
    """Split a path into its column and the steps within that. A name that is no path is one step."""
    start = _START.match(path)
    if start is None:
        return (path,)
    steps: list[Step] = [start[0]]
    position = start.end()
    while position < len(path):
        part = _PART.match(path, position)
        if part is None:
            return (path,)
        name, index = part.groups()
        steps.append(name if name is not None else EVERY_ITEM if index == EVERY else int(index))
        position = part.end()
    return tuple(steps)


def column_of(path: str, columns: Iterable[str]) -> str | None:
    """Return the column that a path leads into: the one of that very name, else that of its start."""
    columns = list(columns)
    if path in columns:
        return path
    first = str(steps_of(path)[0])
    return first if first in columns else None


def found(values: Mapping[str, Any], path: str) -> list[Any]:
    """Return the values that a path leads to: one, but for ``[*]``, which gives a list's every item.

    Where nothing is there it is None.
    """
    if path in values:
        return [values[path]]
    first, *steps = steps_of(path)
    at: list[Any] = [values.get(str(first))]
    for step in steps:
        at = [inner for value in at for inner in _inside(value, step)]
    return at


def step_text(step: Step) -> str:
    """Return a step as it is written in a path."""
    return f".{step}" if isinstance(step, str) else f"[{EVERY if step == EVERY_ITEM else step}]"


def without(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a row without the column that ``column[*]`` spreads over rows."""
    steps = steps_of(path)
    return {name: value for name, value in values.items() if len(steps) > 2 or name != steps[0]}


def is_every(path: str) -> bool:
    """Tell if a path leads to every item of a list."""
    return EVERY_ITEM in steps_of(path)[1:]


def ways_into(path: str, kind: str, fields: Sequence[str] = ()) -> str:
    """Return the paths into a column, as part of a message."""
    if kind == "list":
        return f": write {path}[0] for the first of them, or {path}[*] for a row each"
    if kind == "struct" and fields:
        return f": write {path}.{fields[0]} (it has {', '.join(fields)})"
    return ""


def _inside(value: Any, step: Step) -> list[Any]:
    if isinstance(step, str):
        return [value.get(step) if isinstance(value, Mapping) else None]
    if not isinstance(value, list | tuple):
        return [None]
    if step == EVERY_ITEM:
        return list(value) or [None]
    return [value[step] if step < len(value) else None]
