"""Names that were probably meant."""

import difflib
from collections.abc import Iterable


def closest(given: str, known: Iterable[str]) -> str:
    """Return the known name closest to a given one, or nothing."""
    names = {name.lower(): name for name in map(str, known)}
    found = difflib.get_close_matches(given.lower()[:100], names, n=1)
    return names[found[0]] if found else ""


def did_you_mean(given: str, known: Iterable[str], rest: str = "known: ") -> str:
    """Return the end of a message about an unknown name: the closest name, and all of them.

    Args:
        rest: words before the list of all names.
    """
    names = list(map(str, known))
    close = closest(given, names)
    hint = f"did you mean {close}? " if close else ""
    return f"{hint}{rest}{', '.join(names) or 'none'}"
