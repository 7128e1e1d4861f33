"""Reading of a YAML file whose author is not trusted: bounded time, memory and depth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rasterloom.errors import RecipeError, one_line
from rasterloom.utils.redact import cut

MOST_BYTES = 2**20  # of a file; PyYAML reads about a megabyte in some seconds
MOST_CHARACTERS = 2**22  # of all values, with every alias written out
DEEPEST = 50  # lists and mappings in each other; a recipe has about five
SHOWN = 40  # characters of a value in a message
SUGGESTED = 5  # names of other recipes

_HINTS = {
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values are not allowed": "put a value that holds a colon into quotes, and indent alike",
    "<block end>": "fields of one section begin in the same column",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "end of stream": "a quote or a bracket is not closed",
    "stream end": "a bracket is not closed",
    "cannot start any token": "put the value into quotes",
    "another document": "a recipe is one: remove the line ---",
    "undefined alias": "put a value that begins with * into quotes",
}


class _GivenTwice(yaml.MarkedYAMLError):
    """A key stands twice in a mapping."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose constructors fail with the place in the file."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that stands twice: PyYAML takes the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := seen.setdefault(key.value, key)) is not key:
                before = f"line {first.start_mark.line + 1}"
                problem = f"{cut(key.value, SHOWN)} is given twice, here and in {before}"
                raise _GivenTwice(problem=problem, problem_mark=key.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            kind = node.tag.rpartition(":")[2]
            value = repr(cut(node.value, SHOWN)) if isinstance(node.value, str) else "this"
            raise yaml.MarkedYAMLError(
                problem=f"cannot read {value} as {cut(kind, SHOWN)}", problem_mark=node.start_mark
            ) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file of one document. Raises RecipeError as `read_text` and `parse` do."""
    return parse(path, read_text(path))


def read_text(path: Path) -> str:
    """Read a recipe's text.

    Raises:
        RecipeError: there is no such file, it cannot be read, or it is larger than a recipe may be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise RecipeError(f"{path} is no recipe: it has more than {MOST_BYTES} bytes")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}{_others(path)}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder; a recipe is a file{_others(path / 'x')}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: this is not UTF-8 text, as a recipe is") from None
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {one_line(error)}") from None


def parse(path: Path, text: str) -> Any:
    """Read a recipe's text as YAML of one document.

    Raises:
        RecipeError: it is not YAML, it names a field twice, or it nests deeper than a recipe may.
    """
    try:
        _check(path, text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        said = " ".join(f"{error.problem or error.context}".split()).removeprefix("but ")
        what = "" if isinstance(error, _GivenTwice) else "not YAML: "
        raise RecipeError(f"{place}: {what}{cut(said)}{_hint(said)}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {one_line(error, limit=500)}") from None


def _others(path: Path) -> str:
    """Words on the other recipes of a folder."""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml"))[:SUGGESTED]
    except OSError:
        return f": there is no folder {path.parent}"
    return f"; in that folder: {', '.join(cut(name, SHOWN) for name in names)}" if names else ""


def _hint(problem: str) -> str:
    return next((f"; {hint}" for words, hint in _HINTS.items() if words in problem), "")


def _check(path: Path, text: str) -> None:
    """Pass once over a document's events, without recursion or written-out aliases.

    Raises:
        RecipeError: with its aliases written out it would be too large, it nests too deeply, an anchor holds
            itself, or a value has characters that no file or name can have.
    """
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
    sizes: dict[str, int | None] = {}  # of anchors, aliases written out; None: still open
    open_nodes: list[tuple[str | None, int]] = []  # anchors, and the size before each
    size = 0
    for event in events:
        anchor = getattr(event, "anchor", None)
        where = f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.ScalarEvent):
            if not _is_storable(event.value):
                raise RecipeError(f"{where}: a value holds a NUL character or half a surrogate pair")
            size += 1 + len(event.value)
            if anchor:
                sizes[anchor] = 1 + len(event.value)
        elif isinstance(event, yaml.AliasEvent):
            expanded = sizes.get(event.anchor or "", 0)  # one without an anchor is for the loader to refuse
            if expanded is None:
                raise RecipeError(f"{where}: the anchor &{cut(event.anchor, SHOWN)} holds itself")
            size += expanded
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, size))
            size += 1
            if anchor:
                sizes[anchor] = None
            if len(open_nodes) > DEEPEST:
                raise RecipeError(f"{where}: nests more than {DEEPEST} lists or mappings in each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_nodes.pop()
            if name:
                sizes[name] = size - before
        if size > MOST_CHARACTERS:
            raise RecipeError(
                f"{where}: with its aliases (*name) written out it has more than {MOST_CHARACTERS} characters"
            )


def _is_storable(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
