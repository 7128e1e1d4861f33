"""Commands as the command line shows them: plain usage lines, flags without a type."""

import re
from collections.abc import Callable
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from rasterloom.utils.suggest import closest

_CHOICE = re.compile(r"'([^']*)' is not one of (.*?)\.?$")
_WORDS = (  # ours, and those of the libraries below click
    ("", r"Value error, "),
    (r"it takes \1 or more", r"Input should be greater than or equal to (\S+)"),
    (r"it takes \1 or less", r"Input should be less than or equal to (\S+)"),
    ("it takes a whole number", r"Input should be a valid integer.*"),
    ("it takes a number", r"Input should be a valid number.*"),
)
HELP = {"help_option_names": ["-h", "--help"]}


def _kind(param: Any) -> Any:
    """Type of a parameter, or of the items of a list."""
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    return (get_args(annotation) or (annotation,))[0]


class _Plain:
    """Help of a command. A flag takes no value, so none is shown; nor are braces around an argument."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in found:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
            elif param.metavar is None and _kind(param) is int:
                param.metavar = "N"  # `int range` and `list[int]` are words of a programmer
            elif param.metavar is None and param.multiple:
                param.metavar = "TEXT"
        return found

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece[1:-1] if piece[:1] == "{" and piece[-1:] == "}" else piece for piece in pieces]


class PlainCommand(_Plain, TyperCommand):
    pass


class PlainGroup(_Plain, TyperGroup):
    pass


class App(typer.Typer):
    """Typer application whose commands have plain help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=PlainGroup, context_settings=HELP, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": PlainCommand, **options})


def usage_message(message: str) -> str:
    """Word click's message about wrong options, with what was probably meant."""
    for ours, theirs in _WORDS:
        message = re.sub(theirs, ours, message)
    message = re.sub(r" \(Possible options: ([^,)]+).*\)$", r". Did you mean \1?", message)
    found = _CHOICE.search(message)
    close = closest(found[1], re.findall(r"'([^']*)'", found[2])) if found else ""
    return f"{message} Did you mean {close}?" if close else message
