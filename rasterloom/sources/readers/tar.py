"""The members of a tar file, and where their bytes lie.

A small reader of its own, because a stranger's archive is read: Python's ``tarfile`` holds headers of any
size in memory, and some versions of it never come back from a negative size. Members are listed, never
unpacked, so their names can do no harm.

What cannot be read is said and passed over, as GNU tar does: after a broken header the next one is looked
for, and after an end mark what may follow it, as in archives that were put one behind the other
(``--ignore-zeros``).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 1_000_000  # of a long name's or a pax header's record
MAX_ZERO_BYTES = 1 << 30  # that are looked through for what follows them
_FILES = (b"0", b"\0", b"7")
_LINKS = {b"1": "hard link", b"2": "link"}
_OTHERS = b"3456DNVX"  # devices, folders, volume labels: nothing that could be an image
_ZEROS = bytes(CHUNK_BYTES)
_CHECKSUM = re.compile(rb"[ \0]*[0-7]{1,7}[ \0]*")
_SPARSE = b"GNU.sparse."


@dataclass(frozen=True)
class Member:
    """A regular file in an archive; ``length`` bytes from byte ``offset`` on."""

    name: str  # with lone surrogates for bytes that are not UTF-8
    offset: int
    length: int
    unusable: str = ""  # why its bytes are not those of the file


@dataclass(frozen=True)
class Gap:
    """A part of an archive that cannot be read."""

    reason: str


@dataclass
class _Extended:
    """Name and length that headers before a member give it."""

    name: bytes = b""
    length: int | None = None
    sparse: bool = False
    kind: bytes = b""  # of the last of these headers

    def take(self, key: bytes, value: bytes) -> None:
        """Take over a record of a pax header. A sparse file's own name is not its path."""
        if key.startswith(_SPARSE):
            self.name = value if key == _SPARSE + b"name" else self.name
            self.sparse = True
        elif key == b"path" and not (self.sparse and self.name):
            self.name = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            self.length = int(value)


def members(file: BinaryIO, size: int) -> Iterator[Member | Gap]:
    """Yield the regular files of an archive, and what cannot be read.

    Args:
        size: of the archive, in bytes.

    The last one may reach beyond the end of the archive, where that was cut. A link is a member that is
    unusable.

    Raises:
        OSError: the file cannot be read.
    """
    position, said, ended = 0, _Extended(), False
    while position < size:
        file.seek(position)
        header = file.read(BLOCK)
        if header.count(0) == len(header):
            following = _after_zeros(file, position, size)
            if following is None:
                yield Gap(f"what follows {MAX_ZERO_BYTES:,} bytes of zeros at byte {position:,} is not read")
            if not following:
                return
            position, said, ended = following, _Extended(), True
            continue
        own = _number(header[124:136]) if len(header) == BLOCK else 0
        why = _fault(header, own, position, ended)
        if why or own is None:
            following = _next_header(file, position + BLOCK, size)
            yield Gap(why + (f"; it goes on at byte {following:,}" if following else ""))
            if not following:
                return
            position, said, ended = following, _Extended(), False
            continue
        ended = False
        kind, offset = header[156:157], position + BLOCK
        if kind in (b"L", b"x"):
            if own <= MAX_NAME_BYTES and offset + own > size:
                yield Gap(f"the archive is cut short at byte {size:,}")
                return
            if said.kind == kind:
                yield Gap(f"the archive is broken: a name without its member before byte {position:,}")
                said = _Extended()
            said.kind = kind
            if gap := _extend(said, kind, file, own):
                yield Gap(f"the archive is broken: {gap} at byte {position:,}")
        elif kind not in (b"K", b"g"):
            found, own = _member(file, header, offset, own, said)
            if found:
                yield found
            said = _Extended()
        position = offset + -(-own // BLOCK) * BLOCK
        if position > size:
            yield Gap(f"the archive is cut short at byte {size:,}")


def _fault(header: bytes, own: int | None, position: int, ended: bool) -> str:
    """Return why a block is no header, empty if it is one."""
    if len(header) == BLOCK and _sums_up(header):
        return f"the archive is broken: a member without a size at byte {position:,}" if own is None else ""
    if ended:
        return f"the bytes after the archive's end, from byte {position:,} on, are no archive"
    if len(header) < BLOCK:
        return f"the archive is cut short at byte {position + len(header):,}"
    return f"the archive is broken: no header at byte {position:,}"


def _member(
    file: BinaryIO, header: bytes, offset: int, own: int, said: _Extended
) -> tuple[Member | Gap | None, int]:
    """Return what a header stands for, and how many bytes follow it."""
    kind = header[156:157]
    name = (said.name or _name(header)).decode("utf-8", "surrogateescape")
    if kind in _FILES:
        length = own if said.length is None else said.length
        why = "it is sparse: pack it again without holes" if said.sparse else ""
        return Member(name, offset, length, why), length
    if kind == b"S":
        after = _after_sparse(file, header, offset)
        return Member(name, offset, 0, "it is sparse: pack it again without holes"), after - offset + own
    if kind in _LINKS:
        target = header[157:257].partition(b"\0")[0].decode("utf-8", "backslashreplace")
        why = f"it is a {_LINKS[kind]} to {target}: pack it with links dereferenced"
        return Member(name, offset, 0, why), _data_of_link(file, offset, own)
    if kind and kind[0] in _OTHERS:
        return None, _data_of_link(file, offset, own) if kind in (b"3", b"4", b"5", b"6") else own
    return Gap(f"{name!r} is of unknown kind {kind!r}"), own


def _data_of_link(file: BinaryIO, offset: int, own: int) -> int:
    """Return the length of what follows a link, folder or device.

    Some programs state a size though nothing follows.
    """
    if not own:
        return 0
    file.seek(offset)
    following = file.read(BLOCK)
    is_header = len(following) == BLOCK and (_sums_up(following) or following.count(0) == BLOCK)
    return 0 if is_header else own


def _after_sparse(file: BinaryIO, header: bytes, offset: int) -> int:
    """Return the position of a sparse member's bytes, after its further headers."""
    more = header[482:483] not in (b"\0", b"")
    while more:
        file.seek(offset)
        block = file.read(BLOCK)
        offset += BLOCK
        more = len(block) == BLOCK and block[504:505] != b"\0"
    return offset


def _after_zeros(file: BinaryIO, position: int, size: int) -> int | None:
    """Return the position of the first block after zeros.

    0 if there is none, None if they are too many.
    """
    begin = position
    file.seek(position)
    while position < size:
        if position - begin >= MAX_ZERO_BYTES:
            return None
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            break
        if chunk != _ZEROS[: len(chunk)]:
            at = len(chunk) - len(chunk.lstrip(b"\0"))
            return position + at // BLOCK * BLOCK
        position += len(chunk)
    return 0


def _next_header(file: BinaryIO, position: int, size: int) -> int:
    """Return the position of the next header, 0 if there is none."""
    while position < size:
        file.seek(position)
        chunk = file.read(CHUNK_BYTES)
        for at in range(0, len(chunk) - BLOCK + 1, BLOCK):
            if _CHECKSUM.fullmatch(chunk, at + 148, at + 156) and _sums_up(chunk[at : at + BLOCK]):
                return position + at
        if len(chunk) < CHUNK_BYTES:
            break
        position += CHUNK_BYTES
    return 0


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


def _extend(said: _Extended, kind: bytes, file: BinaryIO, length: int) -> str:
    """Take over a long name or a pax header; return its fault."""
    if length > MAX_NAME_BYTES:
        return f"a header of {length:,} bytes"
    record = file.read(length)
    if kind == b"L":
        said.name, end, rest = record.partition(b"\0")
        return "" if end and not rest.strip(b"\0") else "a long name without its end"
    while record.strip(b"\0"):
        count, space, _ = record.partition(b" ")
        if not space or not count.isdigit() or len(count) > 9 or not len(count) < int(count) <= len(record):
            return "an extended header that is none"
        key, equals, value = record[len(count) + 1 : int(count)].partition(b"=")
        if not equals or b"\0" in key or not value.endswith(b"\n"):
            return "an extended header that is none"
        said.take(key, value[:-1].partition(b"\0")[0])  # as GNU tar, which takes it for a string of C
        record = record[int(count) :]
    return ""
