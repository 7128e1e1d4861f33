"""Frozen parameters: groups by name, or patterns of parameter names."""

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

GROUPS = {"embeddings": "model.embed_tokens.*", "head": "lm_head.*", "norms": "*norm.*"}
_LAYERS = re.compile(r"layers\.(\d+)(?:-(\d+))?")


def frozen(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Return those of a model's parameters that some patterns name.

    Args:
        names: of all parameters, as transformers has them.
        patterns: ``embeddings``, ``head``, ``norms``, ``layers.3``, ``layers.0-7``, or a pattern of names
            as of files, such as ``model.layers.*.mlp.*``.

    Raises:
        ValueError: a pattern names nothing, or together they leave nothing to train.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if any(fnmatchcase(name, glob) for glob in _globs(pattern))}
        if not matched:
            raise ValueError(f"freeze: {pattern!r} names no parameter; {_known(names)}")
        found |= matched
    if names and len(found) == len(names):
        raise ValueError(f"freeze: {', '.join(patterns)} leave nothing to train")
    return found


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Keep some of a model's parameters from being trained. Raises ValueError, as `frozen`."""
    named = dict(model.named_parameters())
    for name in frozen(named, patterns):
        named[name].requires_grad_(False)


def _globs(pattern: str) -> Iterator[str]:
    layers = _LAYERS.fullmatch(pattern)
    if layers:
        first, last = int(layers[1]), int(layers[2] or layers[1])
        yield from (f"model.layers.{number}.*" for number in range(first, last + 1))
    else:
        yield GROUPS.get(pattern, pattern)


def _known(names: list[str]) -> str:
    last = max(
        (int(found[1]) for name in names if (found := re.match(r"model\.layers\.(\d+)\.", name))), default=0
    )
    example = next((name for name in names if ".mlp." in name), "")
    return f"there are {', '.join(GROUPS)}, layers.0-{last}, and parameters such as {example}"
