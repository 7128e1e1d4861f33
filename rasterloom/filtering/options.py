"""Options of scorers and judges, checked against what makes these."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def check_options(kind: str, name: str, given: Mapping[str, Any], make: Callable[..., Any]) -> None:
    """Check options against the parameters of a class or function.

    Args:
        kind: of what is made, for the message: score or judge.

    Raises:
        ValueError: an option is unknown or lacking, or of another kind.
    """
    options = _parameters(make)
    for option, value in given.items():
        if option not in options:
            known = ", ".join(options) or "none"
            raise ValueError(f"the {kind} {name} has no option {option!r}; known: {known}")
        annotation = options[option].annotation
        kinds = get_args(annotation) or (annotation,)
        if type(value) not in kinds and kinds[0] is not inspect.Parameter.empty:
            words = " or ".join(_WORDS[kind] for kind in kinds if kind in _WORDS)
            raise ValueError(f"the option {option!r} of the {kind} {name} takes {words} (got {value!r})")
    for option, parameter in options.items():
        if parameter.default is parameter.empty and option not in given:
            raise ValueError(f"the {kind} {name} needs the option {option!r}")


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make, eval_str=True).parameters
    except (NameError, TypeError):  # a plug-in's annotations that name what is imported for types alone
        return inspect.signature(make).parameters
