"""Lists opened for reading: decompressed, and in UTF-8 whatever their encoding."""

import bz2
import codecs
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from rasterloom.errors import SourceError, one_line
from rasterloom.sources.files import BUFFER_BYTES, Files

CHUNK_BYTES = 1 << 18
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}  # compressions by suffix
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SKIPPED_FRAME = b"\x2a\x4d\x18"  # a frame of zstd without data begins with this, after one byte
_OTHER_JSON = re.compile(rb"\s*(?:\[|\{\s*\n)")  # than an object a line
_LONGEST_MAGIC = max(map(len, _MAGIC))
_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS + 16),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def open_list(files: Files, name: str, encoding: str = "") -> BinaryIO:
    """Open a list from its start: the bytes of its text in UTF-8, without a byte order mark.

    Its compression is known by its first bytes. All members of a compressed file are read. Bytes that are
    not of the encoding stay bytes that are not UTF-8.

    Args:
        encoding: of the text, where no byte order mark says it; UTF-8 when empty.

    Raises:
        SourceError: it is not compressed as its name says, or is UTF-16 that nothing names.
        OSError: as `Files.path`; later, where its compressed data is broken.
    """
    file = files.open(name)
    try:
        kind = _compression(file.peek(16)[:16])  # type: ignore[attr-defined]
        said = PACKED.get(_last_suffix(name), "")
        if said and said != kind and file.peek(1):  # type: ignore[attr-defined]
            raise SourceError(f"{files.shown(name)}: is no {said} data, as its name says: rename the file")
        if kind == "zstd":
            file = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"), BUFFER_BYTES)
        elif kind:
            file = io.BufferedReader(_Unpacked(file, kind), BUFFER_BYTES)
        head = _peek(file)
        for mark, known in _MARKS:
            if head.startswith(mark):
                encoding = known
                file.read(len(mark))
                break
        else:
            if not encoding and (guess := _unmarked(head)):
                raise SourceError(
                    f"{files.shown(name)}: looks like {guess.upper()} without a byte order mark: give the "
                    f"source `encoding: {guess}`, or save the file as UTF-8"
                )
        if encoding and codecs.lookup(encoding).name not in ("utf-8", "ascii"):
            file = io.BufferedReader(_Recoded(file, encoding), BUFFER_BYTES)
    except BaseException:
        file.close()
        raise
    return file


def is_of_new_form(files: Files, name: str) -> bool:
    """Tell if a list is compressed, recoded or a JSON list."""
    try:
        with files.open(name) as file:
            head = file.read(16)
    except OSError:
        return False
    mark = next((known for mark, known in _MARKS if head.startswith(mark)), "utf-8")
    return mark != "utf-8" or bool(_compression(head)) or bool(_OTHER_JSON.match(head))


def plain_name(name: str) -> str:
    """Return a file's name without the suffix of its compression."""
    suffix = _last_suffix(name)
    return name[: -len(suffix)] if suffix in PACKED else name


def _last_suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 else ""


def _compression(head: bytes) -> str:
    if head[1:4] == _SKIPPED_FRAME and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _peek(file: Any) -> bytes:
    return bytes(file.peek(16)[:16])


def _unmarked(head: bytes) -> str:
    """Return the encoding that NUL bytes give away, else an empty text."""
    if len(head) < 4 or head.count(0) not in range(len(head) // 2 - 1, len(head) // 2 + 2):
        return ""
    even, odd = head[0::2], head[1::2]
    if not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if not any(even) and all(odd) else ""


class _Unpacked(io.RawIOBase):
    """Decompressed bytes of all members of a file, in bounded memory."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._file, self._kind = file, kind
        self._stream = _STREAMS[kind]()
        self._left = b""  # compressed bytes that the stream has not taken

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        want = len(buffer)
        try:
            while not self._stream.eof or self._next_member():
                ended = False
                if not self._left and getattr(self._stream, "needs_input", True):
                    self._left = self._file.read(CHUNK_BYTES)
                    ended = not self._left
                data = self._stream.decompress(self._left, want)
                self._left = getattr(self._stream, "unconsumed_tail", b"")
                if data:
                    buffer[: len(data)] = data
                    return len(data)
                if ended and not self._stream.eof:
                    raise OSError(f"its {self._kind} data is cut short")
        except (zlib.error, lzma.LZMAError, EOFError) as error:
            raise OSError(f"its {self._kind} data is broken: {error}") from None
        except OSError as error:
            if error.errno is None and str(error).startswith("Invalid"):  # as bz2 says it
                raise OSError(f"its {self._kind} data is broken") from None
            raise
        return 0

    def _next_member(self) -> bool:
        """Begin the next member. False where the file ends, perhaps after zeros that fill a block."""
        rest = self._stream.unused_data
        while True:
            rest = rest.lstrip(b"\0")
            if len(rest) >= _LONGEST_MAGIC:
                break
            data = self._file.read(CHUNK_BYTES)
            if not data:
                break
            rest += data
        if not rest:
            return False
        if _compression(rest[:16]) != self._kind:
            raise OSError(f"its {self._kind} data ends, and what follows is none: cut that off")
        self._stream, self._left = _STREAMS[self._kind](), rest
        return True


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8. What cannot be decoded stays no UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
        self._errors = "surrogatepass" if wide else "surrogateescape"
        self._decoder = codecs.getincrementaldecoder(encoding)(self._errors)
        self._left, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            data = self._file.read(CHUNK_BYTES)
            self._ended = not data
            try:
                self._left = self._decoder.decode(data, final=self._ended).encode("utf-8", self._errors)
            except UnicodeError as error:
                raise OSError(one_line(error)) from None
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
