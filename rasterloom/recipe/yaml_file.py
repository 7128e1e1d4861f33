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


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose constructors fail with the place in the file."""

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
    """Read a YAML file of one document.

    Raises:
        RecipeError: there is no such file, it is not YAML, or it is larger or nests deeper than a recipe may.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise RecipeError(f"{path} is no recipe: it has more than {MOST_BYTES} bytes")
        text = data.decode("utf-8")
        _check(path, text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {one_line(error, limit=500)}") from None


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
        where = f"{path}, line {event.start_mark.line + 1 if event.start_mark else 1}"
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
