"""Values of a JSON text that is not one value a line."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from rasterloom.errors import SourceError

CHUNK_BYTES = 1 << 20
MAX_RECORD_CHARACTERS = 64_000_000
_SPACE = " \t\r\n\ufeff"
_LIST_OF_OBJECTS = re.compile(rb"\[\s*(?:[{\]]|\Z)")

_BEGUN = re.compile(rb"[^\n]*[{\[,][ \t\r]*\n")  # a line after which a value goes on

LIST, SEQUENCE, LINES = "list", "sequence", "lines"


def form_of(head: bytes, by_lines: bool) -> str:
    """Tell the form of a JSON text by its start: a list, values in a row, or a value a line.

    Args:
        by_lines: its name says that it is JSON Lines, whose lines may be lists.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return LIST if not by_lines or _LIST_OF_OBJECTS.match(start) else LINES
    if not start.startswith(b"{"):
        return LINES
    text = start.decode("utf-8", "surrogateescape")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):  # broken, or longer than the start
        return SEQUENCE if _BEGUN.match(start) else LINES
    rest = text[end:].partition("\n")[0].strip()
    return SEQUENCE if "\n" in text[:end] or rest.startswith("{") else LINES


class Objects:
    """Hook of a JSON decoder that notes names twice in an object."""

    def __init__(self) -> None:
        self.twice: str | None = None

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self.twice = next(name for name in names if names.count(name) > 1)
        return found


def values_of(file: BinaryIO, shown: str, form: str) -> Iterator[tuple[Any, str | None]]:
    """Yield the items of a list, or the values of a sequence.

    With each comes the name that is twice in one of its objects, if any.

    Raises:
        SourceError: it stops being JSON: what follows cannot be found.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    objects = Objects()
    parse = json.JSONDecoder(object_pairs_hook=objects).raw_decode
    text, start, ended, done = "", 0, False, 0  # `done`: characters of items before `text`
    opened = form != LIST
    want = CHUNK_BYTES
    while True:
        if not ended:
            data = file.read(want)
            ended = not data
            text, done, start = text[start:] + decode(data, final=ended), done + start, 0
        while True:
            position = start
            while position < len(text) and (text[position] in _SPACE or text[position] == ","):
                position += 1
            if not opened and text[position : position + 1] == "[":
                opened, start = True, position + 1
                continue
            if form == LIST and text[position : position + 1] == "]":
                _check_end(file, shown, text[position + 1 :], decode, done + position + 1)
                return
            if form != LIST and position == len(text):
                if ended:
                    return
                start = position
                break
            try:
                value, end = parse(text, position)
            except (ValueError, RecursionError) as error:
                if not ended and len(text) - position < MAX_RECORD_CHARACTERS:
                    want = max(CHUNK_BYTES, len(text) - position)  # twice as much, so a long record is cheap
                    start = position
                    break
                words = "nested too deep" if isinstance(error, RecursionError) else _BROKEN[form]
                raise SourceError(f"{shown}: {words} from character {done + position:,} on") from None
            if end == len(text) and not ended:
                objects.twice = None
                break  # a number may go on
            want, start = CHUNK_BYTES, end
            yield value, objects.twice
            objects.twice = None


_BROKEN = {LIST: "is no JSON list", SEQUENCE: "is no JSON"}


def _check_end(file: BinaryIO, shown: str, text: str, decode: Any, position: int) -> None:
    """Check that nothing but space follows a list."""
    while not text.strip(_SPACE):
        data = file.read(CHUNK_BYTES)
        if not data:
            return
        position += len(text)
        text = decode(data)
    raise SourceError(
        f"{shown}: its JSON list ends at character {position:,}, and more follows: put it into one list, "
        "or write a value a line and name the file .jsonl"
    )
