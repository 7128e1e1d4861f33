"""Lines of a recipe's fields in its file, for messages."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from rasterloom.errors import RecipeError
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.yaml_file import read_text

Loc = tuple[int | str, ...]

_NAME = r"[A-Za-z_][\w/]*"
_FIELD = re.compile(rf"{_NAME}(?:\.{_NAME}|\[\d+\])+(?=:? )|{_NAME}(?=: )")
_SHORT = {"rule", "name", "options", "min", "max"}  # what a short form of the field around it stands for


def named_in(message: str) -> Loc:
    """Field that a message begins with, as in ``train.stages[1].lr: ...``."""
    found = _FIELD.match(message)
    parts = re.findall(r"[\w/]+", found[0]) if found else []
    return tuple(int(part) if part.isdigit() else part for part in parts)


def line_of(path: Path, message: str) -> int | None:
    """Line of the field that a message begins with, or None."""
    outer = named_in(message)
    if not outer or outer[0] not in Recipe.model_fields:
        return None
    try:
        lines = Lines(read_text(path))
    except (RecipeError, yaml.YAMLError):
        return None
    rest = message.partition(": ")[2]
    return lines.of((*outer, *named_in(rest))) or lines.of(outer)


class Lines:
    """Lines of the fields of a YAML text without errors."""

    def __init__(self, text: str) -> None:
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)

    def of(self, loc: Iterable[int | str]) -> int | None:
        """Line of a field, or of the innermost one around it."""
        path = tuple(loc)
        if path[:2] == ("keep", "dedup") and self._entry(self._root, "keep", "dedup") is None:
            path = path[1:]  # beside `keep`, which is the short way to write it
        node, line = self._root, None
        for part in path:
            found = _child(node, part)
            if found is None:
                if part in _SHORT:
                    node = _only_value(node)
                continue
            line, node = found
        return line

    def _entry(self, node: yaml.Node | None, *path: str) -> yaml.Node | None:
        for part in path:
            found = _child(node, part)
            if found is None:
                return None
            node = found[1]
        return node


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    """Line and node of an item or entry. Merged entries (``<<``) count where the mapping has none itself."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        item = node.value[part] if part < len(node.value) else None
        return (item.start_mark.line + 1, item) if item else None
    if not isinstance(node, yaml.MappingNode):
        return None
    merged: list[yaml.Node] = []
    for key, value in reversed(node.value):
        if key.tag == "tag:yaml.org,2002:merge":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        elif key.value == str(part):
            return key.start_mark.line + 1, value
    return next((found for one in merged if (found := _child(one, part))), None)


def _only_value(node: yaml.Node | None) -> yaml.Node | None:
    """Value of a mapping of one entry, as in ``{clip: {clip: FOLDER}}``; else the node itself."""
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        value: yaml.Node = node.value[0][1]
        return value
    return node
