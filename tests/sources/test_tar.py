"""Archives as they are made, and as nobody should make them."""

import io
import tarfile
from itertools import islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rasterloom.sources.readers.tar import BrokenTar, Member, members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def make(files: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def listed(data: bytes) -> list[Member]:
    return list(members(io.BytesIO(data), len(data)))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40)
@given(st.lists(st.tuples(st.from_regex(r"[a-zé/ ]{1,90}", fullmatch=True), st.binary(max_size=1100))))
def test_members_are_where_they_are_said_to_be(format: int, files: list[tuple[str, bytes]]) -> None:
    data = make(files, format)
    found = listed(data)
    assert [data[m.offset : m.offset + m.length] for m in found] == [content for _, content in files]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    if not any(name.endswith("/") for name, _ in files):  # tarfile sees a folder there, or cuts the slash
        assert theirs == [(m.name, m.offset, m.length) for m in found]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_hostile_names(format: int) -> None:
    names = ["../../etc/passwd.jpg", "/etc/x.jpg", "a" * 5000 + ".jpg", "b\n.jpg", "ü" * 200 + ".jpg"]
    assert [m.name for m in listed(make([(name, b"x") for name in names], format))] == names


def test_links_folders_and_devices_are_no_files() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("odd.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("file.jpg"))
    assert [m.name for m in listed(buffer.getvalue())] == ["file.jpg"]


def header(size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136], block[156:157], block[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(b"-1"), "without a size"),
        (header(b"\xff" * 12), "without a size"),  # -1 in base 256: an endless loop in some tarfile modules
        (header(b"\x80" + b"\xff" * 11), "cut short at byte 512"),
        (header(b"77777777777"), "cut short"),
        (header(b"\x80" + b"\0" * 6 + b"\x01\0\0\0\0", b"x"), "a header of"),  # 4 GB of pax records
        (header(b"7777", b"L"), "cut short"),
        (header(b"0", b"S"), "sparse"),
        (b"no tar at all" * 100, "no header at byte 0"),
        (header(b"0")[:300], "cut short at byte 300"),
        (header(b"0").replace(b"a.jpg", b"b.jpg"), "no header at byte 0"),
    ],
)
def test_what_is_broken_says_where(data: bytes, words: str) -> None:
    with pytest.raises(BrokenTar, match=words):
        listed(data)


def test_a_cut_archive_gives_what_it_has() -> None:
    data = make([("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)])
    found = []
    with pytest.raises(BrokenTar, match="cut short at byte 2,300"):
        found += [m for m in members(io.BytesIO(data[:2300]), 2300) if not found.append(m)]
    assert [m.name for m in found] == ["a.jpg", "b.jpg"]


@settings(max_examples=300)
@given(
    st.binary(max_size=1500),
    st.integers(0, 1500),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=12))),
)
@example(b"", 0, [])
def test_any_bytes_end(data: bytes, cut: int, changes: list[tuple[int, bytes]]) -> None:
    whole = bytearray(make([("a.jpg", data), ("b" * 200, b"1"), ("ü.txt", b"caption")]))
    for position, change in changes:
        whole[position : position + len(change)] = change
    for tar in (data, bytes(whole), bytes(whole[: len(whole) - cut])):
        try:
            found = list(islice(members(io.BytesIO(tar), len(tar)), 10_000))
        except BrokenTar as error:
            assert "\n" not in str(error)
        else:
            assert len(found) < 100 and all(m.length >= 0 for m in found)
