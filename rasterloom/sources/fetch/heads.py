"""Response heads in the form that aiohttp's parser takes.

Browsers and curl pass over lines that are no header, take a length that is given twice as one, and read
some hundred kilobytes of headers. aiohttp's parser refuses all of it. So the head of a response is looked
at before the parser sees it, and written anew where that does no harm.
"""

import re

from aiohttp.http_exceptions import BadHttpMessage

MAX_HEAD_BYTES = 2**18  # as Chromium

_LINE_END = re.compile(rb"\r*\n")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_TOKEN)
_REGULAR = re.compile(
    rb"HTTP/1\.[01] [1-5][0-9]{2}(?: [^\r\n\0]*)?\r\n(?:" + _TOKEN + rb":[^\r\n\0]*\r\n)*\r\n"
)
_FRAMING = re.compile(
    rb"\n(?:content-length|transfer-encoding|upgrade)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?(?=\n)", re.IGNORECASE
)
_OF_FRAMING = (b"content-length", b"transfer-encoding", b"upgrade")
_STATUS = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-5][0-9]{2})(?![0-9])[ \t]*([^\r\n]*)")
_DIGITS = 18  # of a length; what is longer is none
_WITHOUT_BODY = (b"204", b"304")
_CONTROLS = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")


def tidied(head: bytes) -> bytes:
    """Return the head of a response as the parser takes it.

    - Lines that are no header, and lengths that are no number, are left out.
    - The same Content-Length more than once is one; beside chunks (Transfer-Encoding) it does not count.

    Raises:
        BadHttpMessage: it gives different lengths.
    """
    framing = _FRAMING.findall(head)
    plain = not framing or (
        len(framing) == 1 and (_is_length(framing[0]) or framing[0].lower() == b"chunked")
    )
    if plain and _REGULAR.fullmatch(head):
        return head
    first, *lines = _LINE_END.split(head.strip(b"\r\n"))
    status = _STATUS.match(first)
    if status is None:
        return head  # the parser says what is wrong
    headers = _headers(lines)
    lengths = {
        length.strip() for name, value in headers if name == b"content-length" for length in value.split(b",")
    }
    chunked = any(name == b"transfer-encoding" and b"chunked" in value.lower() for name, value in headers)
    numbers = {length for length in lengths if _is_length(length)}
    if len(set(map(int, numbers))) > 1 and not chunked:
        said = ", ".join(sorted(number.decode()[:20] for number in numbers))
        raise BadHttpMessage(f"it has more than one Content-Length: {said}"[:200])
    kept = [(name, value) for name, value in headers if name not in _OF_FRAMING]
    if chunked:
        kept.append((b"transfer-encoding", b"chunked"))
    elif numbers:
        kept.append((b"content-length", min(numbers)))
    version = b"0" if status[1] == b"0" else b"1"
    words = _CONTROLS.sub(b" ", status[3])
    text = b"".join(name + b": " + value + b"\r\n" for name, value in kept)
    return b"HTTP/1." + version + b" " + status[2] + b" " + words + b"\r\n" + text + b"\r\n"


def body_length(head: bytes) -> int | None:
    """Return how many bytes follow the tidied head of a response. None if only they can tell."""
    if head[9:12] in _WITHOUT_BODY:
        return 0
    framing = _FRAMING.findall(head)
    return int(framing[0]) if len(framing) == 1 and _is_length(framing[0]) else None


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _DIGITS


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Names, in lower case, and values. Lines that are no header are left out."""
    found: list[tuple[bytes, bytes]] = []
    usable = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):  # goes on with the line before
            if usable:
                found[-1] = (found[-1][0], found[-1][1] + b" " + line.strip())
            continue
        name, colon, value = line.partition(b":")
        usable = bool(colon and _NAME.fullmatch(name.rstrip(b" \t")))
        if usable:
            found.append((name.rstrip(b" \t").lower(), value.strip(b" \t")))
    return [(name, _CONTROLS.sub(b" ", value)) for name, value in found]
