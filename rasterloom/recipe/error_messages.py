"""Messages for validation errors of a recipe, one line each."""

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from rasterloom.recipe.base import Section
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.yaml_lines import Loc, named_in
from rasterloom.utils.redact import cut
from rasterloom.utils.suggest import closest

MOST_LINES = 20  # of messages; the others are counted
NAME = 60  # characters of a field's name or a given value that are shown
REPLACED = {"sample.colour_check": "sample.suite judges colour, shape, count, size and position"}
NAMES = 5  # of fields that are shown as examples
HOMES = 3  # places of a field that stands in the wrong one
MESSAGE = 2000  # characters of a message: the one that lists all columns has about half

_TAG = re.compile(r"str|int|float|bool|[A-Z]\w*|\w[\w-]*\[.*\]")  # of a member of a union, in pydantic
_NUMBER, _WHOLE = "takes a number", "takes a whole number"
_FIELDS, _LIST = ("dict_type", "model_type", "model_attributes_type"), ("tuple_type", "list_type")
_TAKES = {
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _NUMBER),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _WHOLE),
    **dict.fromkeys(("bool_type", "bool_parsing"), "takes true or false"),
    **dict.fromkeys(_LIST, "takes a list, [a, b]"),
    "string_type": "takes text",
    "greater_than_equal": "takes {ge} or more",
    "greater_than": "takes more than {gt}",
    "less_than_equal": "takes {le} or less",
    "less_than": "takes less than {lt}",
    **dict.fromkeys(("byte_size", "byte_size_unit"), "takes an amount of memory, such as 2GB"),
    "too_long": "takes a list of {max_length} at most",
    "too_short": "takes a list of {min_length} or more",
    "literal_error": "takes {expected}",
}
_SHORT_FORMS = {"Keep": "a rule, or ", "Score": "a name, or ", "Between": "a number, or "}
_PATTERNS = {
    "corpus": "takes small letters, digits and _, a letter first; a branch, tag or snapshot after @",
    "name": "takes letters, digits, _, . and -",
}

LineOf = Callable[[Loc], int | None]


def explain(error: ValidationError, data: object, line_of: LineOf) -> list[str]:
    """Render validation errors as one line each: line in the file, field, problem, given value.

    Args:
        data: what was given for the whole.
        line_of: line of a field in the file, or None.
    """
    problems: dict[Loc, list[Any]] = {}
    for item in error.errors(include_url=False):
        problems.setdefault(_without_tags(item["loc"], data), []).append(item)
    # An item that is wrong makes the list around it "too short": only the item is news.
    inner = {loc[:n] for loc in problems for n in range(1, len(loc))}
    news = [(loc, items) for loc, items in problems.items() if loc not in inner]
    found = []
    for loc, items in news[:MOST_LINES]:
        text = _explained(loc, items)
        rest = named_in(text.removeprefix(f"{_name(loc)}: ")) if items[0]["type"] == "value_error" else ()
        line = line_of((*loc, *rest))
        found.append((line or 0, f":{line}: {text}" if line else f": {text}"))
    lines = [text for _, text in sorted(found, key=lambda one: one[0])]
    if len(news) > MOST_LINES:
        lines.append(f": and {len(news) - MOST_LINES} more problems")
    return lines


def _explained(loc: Loc, items: list[Any]) -> str:
    field, kind = _name(loc), items[0]["type"]
    if kind == "extra_forbidden" and field in REPLACED:
        return f"{field}: no longer a field; {REPLACED[field]}"
    if kind == "extra_forbidden":
        return f"{field}: no such field{_did_you_mean(loc)}"
    if kind == "missing":
        return f"{field}: required, but missing"
    said = dict.fromkeys(_message(item, loc) for item in items)
    message = ", or ".join(said).replace(", or takes ", " or ")
    hidden = kind == "value_error" or loc[:1] == ("catalog",)  # secrets
    got = "" if hidden else f" (got {_short(items[0]['input'])}{_close(items)})"
    return f"{field}: {message}{got}" if field else message + got


def _name(loc: Loc) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{cut(part, NAME)}" for part in loc]
    return "".join(parts).lstrip(".")


def _without_tags(loc: Loc, data: Any) -> Loc:
    """Location without pydantic's names for the members of a union."""
    found: list[int | str] = []
    for part in loc:
        if isinstance(data, str | int | float) and found:  # a short form, which has no fields
            break
        is_there = isinstance(data, Mapping) and part in data
        if is_there or not (isinstance(part, str) and found and _TAG.fullmatch(part)):
            found.append(part)
            data = _inside(data, part)
    return tuple(found)


def _inside(data: Any, part: int | str) -> Any:
    if isinstance(data, Mapping):
        return data.get(part)
    is_item = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
    return data[part] if is_item else None


def _message(item: Any, loc: Loc) -> str:
    if item["type"] == "string_pattern_mismatch":
        return _PATTERNS[str(loc[-1])]
    if item["type"] in _FIELDS:
        names = [*getattr(_section_at(loc), "model_fields", ())][:NAMES]
        short = _SHORT_FORMS.get(getattr(_section_at(loc), "__name__", ""), "")
        fields = f"fields such as {', '.join(names)}" if names else "names with values, {name: value}"
        return f"takes {short}{fields}"
    if item["type"] in _LIST and isinstance(item["input"], str | int | float):
        return f"takes a list: [{cut(item['input'], NAME)}]"
    template = _TAKES.get(item["type"])
    if template:
        context = {name: f"{v:g}" if isinstance(v, float) else v for name, v in item.get("ctx", {}).items()}
        return re.sub(r"\{(\w+)\}", lambda found: str(context.get(found[1], found[0])), template)
    message = cut(item["msg"].removeprefix("Value error, "), MESSAGE)
    return message[0].lower() + message[1:]


def _close(items: list[Any]) -> str:
    """The choice that was probably meant, of those that a field takes."""
    expected = " ".join(item["ctx"]["expected"] for item in items if item["type"] == "literal_error")
    given = items[0]["input"]
    close = closest(given, re.findall(r"'([^']*)'", expected)) if isinstance(given, str) else ""
    return f"; did you mean {close}?" if close else ""


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than some thousand digits
        return "a very long number"
    return text if len(text) <= NAME else text[: NAME - 3] + "..."


def _did_you_mean(loc: Loc) -> str:
    model = _section_at(loc[:-1])
    if model is None:
        return ""
    close = closest(str(loc[-1])[:NAME], model.model_fields)
    if not close and (homes := _homes(str(loc[-1]), _name(loc[:-1]))):
        close = " or ".join(homes)
    return f"; did you mean {close}?" if close else f"; known here: {', '.join(model.model_fields)}"


def _homes(name: str, section: str) -> list[str]:
    """Paths of the fields of a name: those inside a section if there are some, else anywhere."""
    found, waiting = [], [("", Recipe)]
    while waiting:
        prefix, model = waiting.pop(0)
        for field, info in model.model_fields.items():
            found += [prefix + field] if field == name else []
            kind = _section_in(info.annotation)
            if kind is not None and kind.__name__ != "Score":
                item = "[]" if get_origin(info.annotation) is tuple else ""
                waiting.append((f"{prefix}{field}{item}.", kind))
    inside = [path for path in found if section and path.startswith(section)]
    return (inside or found)[:HOMES]


def _section_at(loc: Loc) -> Any:
    model: Any = Recipe
    for part in loc:
        field = None if isinstance(part, int) else model.model_fields.get(part)
        if field is not None:
            model = _section_in(field.annotation)
        if model is None:
            return None
    return model


def _section_in(annotation: Any) -> Any:
    """Section in a field, or in its list or mapping, or None."""
    stack = [annotation]
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
        stack.extend(get_args(kind))
    return None
