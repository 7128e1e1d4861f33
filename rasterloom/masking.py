"""Texts for people and files without what is secret."""

import re

_LOGIN = re.compile(r"(?<=://)[^/?#\s'\"]+@")


def masked(text: str) -> str:
    """A text without the users and passwords in its URLs: ``https://me:secret@host/`` -> ``https://…@host/``."""
    return _LOGIN.sub("…@", text)
