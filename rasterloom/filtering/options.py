"""Scorers and judges, made by name and options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

from rasterloom.errors import PluginError, one_line
from rasterloom.recipe.filtering import Score
from rasterloom.utils import plugins
from rasterloom.utils.plugins import Plugin
from rasterloom.utils.suggest import did_you_mean

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def make_by_name(
    kind: str,
    group: str,
    config: Score,
    built_in: Mapping[str, Callable[..., Any]],
    load: Callable[[Plugin], Callable[..., Any]],
    members: tuple[str, ...],
) -> Any:
    """Make a built-in or a plug-in's scorer or judge.

    Args:
        kind: of what is made, for messages: score or judge.
        group: of its plug-ins' entry points.
        members: that it must have.

    Raises:
        ValueError: there is none of the name, or an option does not suit it.
        PluginError: a plug-in's cannot be made, or lacks a member.
    """
    plugin = None
    make = built_in.get(config.name)
    if make is None:
        plugin = plugins.find(group, config.name)
        if plugin is None:
            raise ValueError(plugins.missing(group, config.name, built_in))
        make = load(plugin)
    check_options(kind, config.name, config.options, make)
    if plugin is None:
        return make(**config.options)
    try:
        made = make(**config.options)
    except Exception as error:
        raise PluginError(f"{plugin} cannot be made: {type(error).__name__}: {one_line(error)}") from None
    plugin.check(made, members)
    if made.name != config.name:
        raise PluginError(f"{plugin} calls itself {made.name!r}, not {config.name!r}")
    return made


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
            known = did_you_mean(option, options)
            raise ValueError(f"the {kind} {name} has no option {option!r}; {known}")
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
