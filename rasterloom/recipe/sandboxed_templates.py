"""Jinja2 templates in a sandbox, checked before they are used."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rasterloom.errors import one_line
from rasterloom.utils.suggest import did_you_mean

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def check_template(text: str, names: Collection[str]) -> None:
    """Check a template's syntax and the names in it.

    Raises:
        ValueError: in one line, with the line of a syntax error, or the names that there are.
    """
    try:
        tree = _ENVIRONMENT.parse(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise ValueError(f"{one_line(error)}{f' (line {line})' if line else ''}") from None
    for name in sorted(meta.find_undeclared_variables(tree)):
        if name not in names:
            raise ValueError(f"{{{{ {name} }}}} is not known; {did_you_mean(name, names, 'there are ')}")


def render(text: str, values: Mapping[str, Any]) -> str:
    """Fill a template in. Values are text or data, never templates.

    Raises:
        ValueError: a value that it asks for is not there, or it does what the sandbox forbids.
    """
    try:
        return _compiled(text).render(values)
    except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(one_line(error)) from None


def fixed_text(text: str) -> str:
    """The parts of a template that are the same for all values."""
    return " ".join(found.data for found in _ENVIRONMENT.parse(text).find_all(nodes.TemplateData))


def names_in(text: str) -> set[str]:
    """Names that a template speaks of."""
    return meta.find_undeclared_variables(_ENVIRONMENT.parse(text))


@lru_cache(maxsize=64)
def _compiled(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)
