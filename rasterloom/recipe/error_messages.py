"""Messages for validation errors of a recipe, one line each."""

import difflib
from typing import Any, get_args

from pydantic import ValidationError

from rasterloom.recipe.base import Section
from rasterloom.recipe.recipe import Recipe
from rasterloom.utils.redact import cut

MOST_LINES = 20  # of messages; the others are counted
NAME = 60  # characters of a field's name or a given value that are shown
REPLACED = {"sample.colour_check": "sample.suite judges colour, shape, count, size and position"}
MESSAGE = 2000  # characters of a message: the one that lists all columns has about half


def explain(error: ValidationError) -> list[str]:
    """Render validation errors as one line each: field, problem, given value."""
    items = error.errors(include_url=False)
    # An item that is wrong makes the list around it "too short": only the item is news.
    inner = {item["loc"][:n] for item in items for n in range(1, len(item["loc"]))}
    news = [item for item in items if item["loc"] not in inner]
    lines = []
    for item in news[:MOST_LINES]:
        parts = [f"[{part}]" if isinstance(part, int) else f".{cut(part, NAME)}" for part in item["loc"]]
        field = "".join(parts).lstrip(".")
        if item["type"] == "extra_forbidden" and field in REPLACED:
            lines.append(f"{field}: no longer a field; {REPLACED[field]}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{field}: no such field{_did_you_mean(item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{field}: required, but missing")
        else:
            message = cut(item["msg"].removeprefix("Value error, "), MESSAGE)
            message = message[0].lower() + message[1:]
            hidden = item["type"] == "value_error" or item["loc"][0] == "catalog"  # secrets
            got = "" if hidden else f" (got {_short(item['input'])})"
            lines.append(f"{field}: {message}{got}" if field else message + got)
    if len(news) > MOST_LINES:
        lines.append(f"and {len(news) - MOST_LINES} more problems")
    return lines


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than some thousand digits
        return "a very long number"
    return text if len(text) <= NAME else text[: NAME - 3] + "..."


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    model: Any = Recipe
    for part in loc[:-1]:
        model = _section_of(model, part)
        if model is None:
            return ""
    close = difflib.get_close_matches(str(loc[-1])[:NAME], model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]}?" if close else f"; known here: {known}"


def _section_of(model: Any, part: int | str) -> Any:
    """Section that one part of an error's location names, or None."""
    if isinstance(part, int):
        return model
    field = model.model_fields.get(part)
    stack = [field.annotation] if field else []
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
        stack.extend(get_args(kind))
    return None
