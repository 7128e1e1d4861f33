"""Archives as they are made, and as nobody should make them."""

import io
import os
import subprocess
import tarfile
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rasterloom.sources.readers import tar as tar_module
from rasterloom.sources.readers.tar import Gap, Member, members

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
    found = list(members(io.BytesIO(data), len(data)))
    assert not [gap for gap in found if isinstance(gap, Gap)]
    return [member for member in found if isinstance(member, Member)]


def gaps(data: bytes) -> list[str]:
    return [gap.reason for gap in members(io.BytesIO(data), len(data)) if isinstance(gap, Gap)]


def names(data: bytes) -> list[str]:
    return [member.name for member in members(io.BytesIO(data), len(data)) if isinstance(member, Member)]


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
    wanted = ["../../etc/passwd.jpg", "/etc/x.jpg", "a" * 5000 + ".jpg", "b\n.jpg", "ü" * 200 + ".jpg"]
    assert [m.name for m in listed(make([(name, b"x") for name in wanted], format))] == wanted


def test_folders_and_devices_are_no_files_and_links_have_no_bytes() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("odd.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("file.jpg"))
    found = listed(buffer.getvalue())
    assert [m.name for m in found] == ["odd.jpg", "odd.jpg", "file.jpg"]
    assert [m.unusable.partition(":")[0] for m in found] == [
        "it is a link to /etc/passwd", "it is a hard link to /etc/passwd", "",
    ]  # fmt: skip


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
        (header(b"0", b"M"), "of unknown kind"),
        (b"no tar at all" * 100, "no header at byte 0"),
        (header(b"0")[:300], "cut short at byte 300"),
        (header(b"0").replace(b"a.jpg", b"b.jpg"), "no header at byte 0"),
    ],
)
def test_what_is_broken_says_where(data: bytes, words: str) -> None:
    (gap, *_) = gaps(data)
    assert words in gap and "\n" not in gap


def test_a_cut_archive_gives_what_it_has() -> None:
    data = make([("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)])[:2300]
    assert names(data) == ["a.jpg", "b.jpg"]
    assert gaps(data) == ["the archive is cut short at byte 2,300"]


def test_archives_one_behind_the_other_are_read_to_their_end() -> None:
    one, two = make([("a.jpg", b"x")]), make([("b.jpg", b"y"), ("c.jpg", b"z")])
    assert [m.name for m in listed(one + two)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [m.name for m in listed(one[:1024] + bytes(512) + two)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert listed(one + bytes(100_000)) == listed(one)


@pytest.mark.parametrize("rest", [b"\n", b"junk" * 1000, b"\0" * 512 + b"x"])
def test_what_follows_the_end_and_is_no_archive_is_said(rest: bytes) -> None:
    data = make([("a.jpg", b"x")])
    assert names(data + rest) == ["a.jpg"]
    (gap,) = gaps(data + rest)
    assert gap.startswith("the bytes after the archive's end, from byte 10,")


def test_zeros_without_end_are_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "MAX_ZERO_BYTES", 1 << 20)
    data = make([("a.jpg", b"x")]) + bytes(3 << 20) + make([("b.jpg", b"y")])
    assert names(data) == ["a.jpg"]
    assert "bytes of zeros" in gaps(data)[0]


def test_reading_goes_on_after_a_broken_header() -> None:
    data = bytearray(make([(f"{i}.jpg", bytes([i]) * 700) for i in range(4)], tarfile.USTAR_FORMAT))
    data[1536:1546] = b"\xff" * 10  # in the name of the second
    assert names(bytes(data)) == ["0.jpg", "2.jpg", "3.jpg"]
    assert gaps(bytes(data)) == ["the archive is broken: no header at byte 1,536; it goes on at byte 3,072"]


def test_a_pax_header_that_is_none_is_said() -> None:
    data = bytearray(make([("ü" * 200 + ".jpg", b"x")], tarfile.PAX_FORMAT))
    data[512:515] = b"x 1"
    assert gaps(bytes(data)) == ["the archive is broken: an extended header that is none at byte 0"]


@pytest.mark.parametrize("hit", [b"path", b"=", b".jpg\n"])
def test_a_byte_of_a_pax_header_that_was_zeroed_is_seen(hit: bytes, tmp_path: Path) -> None:
    data = make([("ü" * 70 + ".jpg", b"x")], tarfile.PAX_FORMAT)
    place = data.index(hit, 512) + len(hit) - 1
    data = data[:place] + b"\0" + data[place + 1 :]
    (tmp_path / "a.tar").write_bytes(data)
    done = subprocess.run(["tar", "-tf", tmp_path / "a.tar"], capture_output=True)
    assert done.returncode
    assert gaps(data) == ["the archive is broken: an extended header that is none at byte 0"]


def test_a_name_in_a_pax_header_ends_at_a_zero(tmp_path: Path) -> None:
    data = make([("ü" * 70 + "/a.jpg", b"x")], tarfile.PAX_FORMAT)
    place = data.index(b"/a.jpg", 512)
    data = data[:place] + b"\0" + data[place + 1 :]
    (tmp_path / "a.tar").write_bytes(data)
    done = subprocess.run(["tar", "-tf", tmp_path / "a.tar", "--quoting-style=literal"], capture_output=True)
    assert names(data) == [done.stdout.decode().rstrip("\n")] == ["ü" * 70]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_name_whose_member_is_gone_is_not_given_to_the_next(form: int) -> None:
    one, two = (make([(f"{letter}{'ü' * 100}.jpg", b"1")], form) for letter in "ab")
    at = one.index(b"ustar", 1024) - 257  # the member's own header
    data = one[:at] + two
    assert names(data) == ["b" + "ü" * 100 + ".jpg"]
    assert gaps(data) == [f"the archive is broken: a name without its member before byte {at:,}"]


def test_a_long_name_without_its_end_is_said() -> None:
    data = bytearray(make([("x" * 120 + ".jpg", b"1")], tarfile.GNU_FORMAT))
    assert data[512:636] == b"x" * 120 + b".jpg"
    for end in (b"????", b"\0" + b"abc"):
        data[636:640] = end
        data[124:135] = b"00000000200"  # the record goes on to byte 640
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        assert gaps(bytes(data)) == ["the archive is broken: a long name without its end at byte 0"]


@pytest.mark.parametrize("stated", [0, 700])
def test_a_hard_link_that_states_a_size_hides_nothing(stated: int) -> None:
    link = tarfile.TarInfo("b.jpg")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.jpg", stated
    data = make([("a.jpg", b"x")])[:1024] + link.tobuf(tarfile.USTAR_FORMAT) + make([("c.jpg", b"y")])
    assert [m.name for m in listed(data)] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_sparse_members_are_not_taken_for_their_bytes(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    os.truncate(tmp_path / "a.jpg", 3_000_000)
    with (tmp_path / "a.jpg").open("r+b") as file:
        for at in range(0, 3_000_000, 100_000):  # more parts than a header holds
            file.seek(at)
            file.write(b"x" * 10)
    (tmp_path / "b.jpg").write_bytes(b"b")
    command = [
        "tar",
        "--sparse",
        "--hole-detection=raw",
        f"--format={kind}",
        "-cf",
        "out.tar",
        "a.jpg",
        "b.jpg",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = listed((tmp_path / "out.tar").read_bytes())
    assert [(m.name, m.unusable.partition(":")[0]) for m in found] == [
        ("a.jpg", "it is sparse"),
        ("b.jpg", ""),
    ]


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
        found = list(islice(members(io.BytesIO(tar), len(tar)), 10_000))
        assert len(found) < 100
        assert all("\n" not in m.reason if isinstance(m, Gap) else m.length >= 0 for m in found)
