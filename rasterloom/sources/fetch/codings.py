"""Content codings of responses, asked for or not, true or not."""

import zlib
from collections.abc import Callable, Iterator

import pyarrow as pa

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

MAX_CODINGS = 5  # one over the other, as curl
_STEP = 2**16

# Beginnings of image files, and what stands behind them.
_IMAGES = {
    b"\xff\xd8\xff": b"", b"\x89PNG\r\n": b"", b"GIF8": b"", b"BM": b"", b"II*\0": b"", b"MM\0*": b"",
    b"RIFF": b"WEBP", b"\0\0\0": b"ftyp", b"\0\0\0\x0cJXL ": b"", b"\xff\x0a": b"",
}  # fmt: skip


def decoded(body: bytes, codings: str, limit: int, *, cut: bool = False) -> bytes:
    """Return a body without its content codings.

    A body that does not have the coding that its header names, and is an image as it stands, is returned as
    it is. What follows the end of gzip's data is passed over.

    Args:
        codings: the header Content-Encoding.
        limit: most bytes of the result.
        cut: return the first ``limit`` bytes of a longer one, and what there is of one that was cut.

    Raises:
        FetchFailure: TOO_MANY_BYTES, INCOMPLETE, or BAD_RESPONSE for codings that are unknown or not there.
    """
    names = [
        name for coding in codings.lower().split(",") if (name := coding.strip()) not in ("", "identity")
    ]
    if len(names) > MAX_CODINGS:
        raise FetchFailure(ErrorClass.BAD_RESPONSE, f"it has more than {MAX_CODINGS} content codings")
    for name in reversed(names):
        try:
            body = _unpacked(body, name, limit, cut=cut)
        except FetchFailure as failure:
            if failure.error is not ErrorClass.TOO_MANY_BYTES and _is_image(body):
                return body
            raise
    return body


def _unpacked(body: bytes, name: str, limit: int, *, cut: bool) -> bytes:
    unpack = _CODINGS.get(name)
    if unpack is None:
        raise FetchFailure(ErrorClass.BAD_RESPONSE, f"its content coding {name} is not supported")
    parts: list[bytes] = []
    size = 0
    try:
        for part in unpack(body) if body else ():
            parts.append(part)
            size += len(part)
            if size > limit:
                break
    except EOFError:
        if not cut:
            detail = f"the {name} data of its body end early"
            raise FetchFailure(ErrorClass.INCOMPLETE, detail, may_pass=True) from None
    except (zlib.error, OSError) as error:
        detail = f"its body is not in the content coding {name} that its header names: {error}"
        raise FetchFailure(ErrorClass.BAD_RESPONSE, detail) from None
    if size > limit and not cut:
        raise FetchFailure(ErrorClass.TOO_MANY_BYTES, f"unpacks to more than {limit} bytes")
    return b"".join(parts)[:limit]


def _is_image(body: bytes) -> bool:
    return any(
        body.startswith(begin) and (not behind or body[4:12].find(behind) >= 0)
        for begin, behind in _IMAGES.items()
    )


def _gzip(body: bytes) -> Iterator[bytes]:
    """Members one after another. Anything that follows them is passed over."""
    while True:
        member = zlib.decompressobj(wbits=31)
        yield from _inflated(member, body)
        body = member.unused_data
        if not body.startswith(b"\x1f\x8b\x08"):
            return


def _deflate(body: bytes) -> Iterator[bytes]:
    """The zlib format, and what some servers take for it: bare deflated data."""
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    yield from _inflated(zlib.decompressobj(wbits=15 if is_zlib else -15), body)


def _inflated(stream: "zlib._Decompress", body: bytes) -> Iterator[bytes]:
    while not stream.eof:
        part = stream.decompress(body, _STEP)
        body = stream.unconsumed_tail
        if not part and not body and not stream.eof:
            raise EOFError
        yield part


def _by_arrow(codec: str) -> Callable[[bytes], Iterator[bytes]]:
    def unpack(body: bytes) -> Iterator[bytes]:
        try:
            with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
                while part := stream.read(_STEP):
                    yield part
        except OSError as error:
            raise EOFError if "Truncated" in str(error) else error from None

    return unpack


_CODINGS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _by_arrow("brotli"),
    "zstd": _by_arrow("zstd"),
}
