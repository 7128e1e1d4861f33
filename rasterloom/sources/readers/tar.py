"""The members of a tar file, and where their bytes lie.

A small reader of its own, because a stranger's archive is read: Python's ``tarfile`` holds headers of any
size in memory, and some versions of it never come back from a negative size. Members are listed, never
unpacked, so their names can do no harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
MAX_NAME_BYTES = 1_000_000  # of a long name's or a pax header's record
_FILES = (b"0", b"\0", b"7")
_NULL = bytes(BLOCK)


class BrokenTar(ValueError):
    """From here on the archive cannot be read."""


@dataclass(frozen=True)
class Member:
    """A regular file in an archive; ``length`` bytes from byte ``offset`` on."""

    name: str  # with lone surrogates for bytes that are not UTF-8
    offset: int
    length: int


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Yield the regular files of an archive of ``size`` bytes, in order.

    The last one may reach beyond the end of the archive, where that was cut.

    Raises:
        BrokenTar: a header is none; the message says where.
        OSError: the file cannot be read.
    """
    position, name, length = 0, b"", None
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if not header or header == _NULL:
            return
        if len(header) < BLOCK:
            raise BrokenTar(f"the archive is cut short at byte {position + len(header):,}")
        if not _sums_up(header):
            raise BrokenTar(f"the archive is broken: no header at byte {position:,}")
        kind, offset = header[156:157], position + BLOCK
        own = _number(header[124:136])
        if own is None:
            raise BrokenTar(f"the archive is broken: a member without a size at byte {position:,}")
        if kind in (b"L", b"x"):
            if own > MAX_NAME_BYTES:
                raise BrokenTar(f"the archive is broken: a header of {own:,} bytes at byte {position:,}")
            record = file.read(own)
            if len(record) < own:
                raise BrokenTar(f"the archive is cut short at byte {offset + len(record):,}")
            if kind == b"L":
                name = record.rstrip(b"\0")
            else:
                pax_name, pax_size = _pax(record)
                name, length = pax_name or name, pax_size
        elif kind == b"S":
            raise BrokenTar(f"a sparse member at byte {position:,}, which is not supported")
        elif kind not in (b"K", b"g"):
            if kind in _FILES:
                own = own if length is None else length
                yield Member((name or _name(header)).decode("utf-8", "surrogateescape"), offset, own)
            name, length = b"", None
        position = offset + -(-own // BLOCK) * BLOCK
        if position > size:
            raise BrokenTar(f"the archive is cut short at byte {size:,}")


def _sums_up(header: bytes) -> bool:
    """Check a header's checksum, which some old programs took over signed characters."""
    stated = _number(header[148:156])
    plain = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(plain)
    return stated in (unsigned, unsigned - 256 * sum(byte > 127 for byte in plain))


def _number(field: bytes) -> int | None:
    """Read an octal number, or one in base 256. None if it is neither, or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    return int(digits, 8) if all(48 <= byte < 56 for byte in digits) else None


def _name(header: bytes) -> bytes:
    name, prefix = (header[start:end].partition(b"\0")[0] for start, end in ((0, 100), (345, 500)))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _pax(record: bytes) -> tuple[bytes, int | None]:
    """Return name and size of a pax header, empty and None without."""
    name, size = b"", None
    while record:
        count, space, _ = record.partition(b" ")
        if not space or not count.isdigit() or len(count) > 9 or not len(count) < int(count) <= len(record):
            break
        key, _, value = record[len(count) + 1 : int(count)].rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        record = record[int(count) :]
    return name, size
