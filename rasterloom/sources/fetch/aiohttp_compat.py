"""Private parts of aiohttp 3.14 that Rasterloom relies on."""

import asyncio
import re
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

from rasterloom.sources.fetch.heads import MAX_HEAD_BYTES, body_length, tidied

HOLDS_FOR = "3.14"

_BEGIN = b"HTTP/"
_END = re.compile(rb"\r?\n\r?\n")


class Handler(ResponseHandler):
    """aiohttp's protocol of a connection, that tidies the head of each response."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # of the response to come; None once it is through
        self._left: int | None = None  # bytes of the body to come, where its head says how many

    def set_response_params(self, **options: Any) -> None:
        """Take up the next response."""
        self._head = bytearray()
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Take what came: of a head once it is whole, of a body at once."""
        if self._head is None or self._parser is None:
            super().data_received(self._of_body(data))
            return
        seen = max(0, len(self._head) - 3)
        self._head += data
        while self._head:
            if self._head[0] in b"\r\n":  # before the status line
                self._head, seen = self._head.lstrip(b"\r\n"), 0
            if not _BEGIN.startswith(self._head[: len(_BEGIN)]):
                self._pass_on(b"", 0)  # no HTTP: the parser says so
                return
            end = _END.search(self._head, seen)
            if (end.end() if end else len(self._head)) > MAX_HEAD_BYTES:
                self._refuse(f"its headers are longer than {MAX_HEAD_BYTES} bytes")
                return
            if end is None:
                return
            try:
                head = tidied(bytes(self._head[: end.end()]))
            except BadHttpMessage as error:
                self._refuse(error.message)
                return
            self._pass_on(head, end.end())
            seen = 0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let the parser say what is missing."""
        if self._head and self._parser is not None:
            self._pass_on(b"", 0)
        super().connection_lost(exc)

    def _pass_on(self, head: bytes, length: int) -> None:
        """Give the parser a head for ``length`` bytes, and what follows."""
        waiting = bytes(self._head or b"")[length:]
        interim = head[9:10] == b"1" and head[9:12] != b"101"
        self._head = bytearray(waiting) if interim else None
        self._left = None if interim else body_length(head)
        super().data_received(head if interim else head + self._of_body(waiting))

    def _of_body(self, data: bytes) -> bytes:
        """Return what belongs to the body. The parser would refuse all of it for what follows."""
        if self._left is None:
            return data
        if len(data) > self._left:
            data = data[: self._left]
            self.force_close()
        self._left -= len(data)
        return data

    def _refuse(self, why: str) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage(why))


def connector(**options: Any) -> aiohttp.TCPConnector:
    """Return a connector whose connections tidy heads."""
    made = aiohttp.TCPConnector(**options)
    # aiohttp has no public way to say so
    made._factory = partial(Handler, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return made
