"""Rasterloom: from a list of image-text pairs to a trained autoregressive image model.

``rasterloom.run``, ``rasterloom.plan`` and ``rasterloom.open`` are those of `rasterloom.api`, which is
imported when one of them is first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
_OF_API = ("open", "plan", "run")

if TYPE_CHECKING:
    from rasterloom.api import open as open
    from rasterloom.api import plan as plan
    from rasterloom.api import run as run


def __getattr__(name: str) -> Any:
    if name not in _OF_API:
        raise AttributeError(f"module 'rasterloom' has no attribute {name!r}")
    from importlib import import_module  # heavy: what it imports

    return getattr(import_module("rasterloom.api"), name)
