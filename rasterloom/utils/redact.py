"""Untrusted text made safe to show, without secrets.

`safe` is what everything goes through. Control characters are spelt out, as are those that nobody sees or
that turn the text around them; logins and signatures of URLs are masked.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from rasterloom.utils.json_files import to_json

MASK = "…"
LIMIT = 500  # characters of what a server said that are kept
LINES = "\n"  # what `keep` takes of a text of several lines
PAGE = "\n\r\t"  # and of a text that becomes a page, where nothing moves a cursor

# Host and port of `url`, as SQL; empty where there are none, or what stands there may begin a login.
HOST_SQL = (
    r"regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?"
    r"((?:[^/?#@:\[]*|\[[^\]/?#@]*\])(?::[0-9]*)?)(?:[/?#]|$)', 1)"
)

# Other (Cn aside: newer characters than this Python's), and the separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_RUN = re.compile(r'[^\s"<>]+')
_AUTHORITY = re.compile(r"//([^/?#]*)")
_PORT = re.compile(r"\d{0,5}")
_ENCODED_LOGIN = re.compile(r'(?<=%3A%2F%2F)(?:(?!%2F|%3F|%23)[^/?#\s"<>])*%40', re.IGNORECASE)
_SECRET = re.compile(
    r"((?:[?&;#]|%3F|%26)"
    r"(?:[\w.-]{0,40}(?:signature|credential|token|secret|passw|api[-_]?key|access[-_]?key|session"
    r"|auth(?!ors?\b))[\w.-]{0,40}"
    r"|(?:x-amz-)?(?:sig|key|policy|pwd|pass|jwt|hmac|hdnts|hdnea|key-pair-id))"
    r'(?:=|%3D))[^&\s"<>]+',
    re.IGNORECASE,
)


def safe(text: object, keep: str = "") -> str:
    """Text that is safe to show: control characters escaped, secrets masked.

    Args:
        keep: control characters that stay, `LINES` or `PAGE`; none in a value that stands in a line
    """
    return masked(_escaped(str(text), keep))


def cut(text: object, limit: int = LIMIT) -> str:
    """The same in one line, of so many characters at most."""
    line = " ".join(safe(text, PAGE).split())
    return line if len(line) <= limit else line[: limit - 1] + MASK


def masked(text: str) -> str:
    """A text without the logins and signatures of its URLs.

    ``https://me:secret@host/?sig=abc`` -> ``https://…@host/?sig=…``, and whatever a password has in it up
    to the last ``@``. What may be a login counts as one.
    """
    if "@" in text:
        text = _RUN.sub(_without_logins, text)
    if "%40" in text:
        text = _ENCODED_LOGIN.sub(f"{MASK}%40", text)
    return _SECRET.sub(rf"\1{MASK}", text) if "=" in text or "%3" in text else text


def as_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON without secrets and terminal control characters."""
    return _escaped(to_json(_masked_in(value), ensure_ascii=False, indent=indent), LINES, _json_escape)


def _escaped(text: str, keep: str, escape: Any = None) -> str:
    if text.isprintable():  # nothing of what follows is
        return text
    escape = escape or _escape
    return "".join(
        escape(c) if not c.isprintable() and c not in keep and unicodedata.category(c) in _UNSEEN else c
        for c in text
    )


def _escape(character: str) -> str:
    """As ``repr`` has it."""
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else r"\u007f"


def _masked_in(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {_masked_in(name): _masked_in(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked_in(one) for one in value]
    return value


def _is_host(authority: str) -> bool:
    """``example.org:80``, ``minio`` or ``[::1]:80``, not ``me:123``, with which a login may begin."""
    host, colon, port = authority.rpartition(":")
    if "@" in authority:
        return False
    if not colon or authority.endswith("]"):
        return True
    named = host.lower() == "localhost" or host.startswith("[") or ("." in host and ":" not in host)
    return named and _PORT.fullmatch(port) is not None


def _without_logins(run: re.Match[str]) -> str:
    """A run of characters without a space, without its logins."""
    text = run[0]
    last = text.rfind("@")
    done = 0
    parts = []
    for found in _AUTHORITY.finditer(text, 0, last + 1):
        authority = found[1]
        if _is_host(authority):
            continue
        login, at, _ = authority.rpartition("@")
        if at and ":" not in login:  # a token, such as of a forge: it ends with the authority's last @
            end = found.start(1) + len(login)
        else:
            end = last
        parts += [text[done : found.start(1)], MASK]
        done = end
        if end == last:
            break
    return "".join([*parts, text[done:]])
