"""Tars as GNU tar lists them and webdataset groups them, folders as pathlib finds them.

Archives are drawn, put one behind the other, cut and overwritten. Where nothing is said to be unreadable,
the members are those of ``tar --list --ignore-zeros``; where GNU tar complains, we do.
"""

import io
import itertools
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.pairs import read_sources
from rasterloom.sources.readers.registry import read_rows, survey_source
from rasterloom.sources.readers.row import UNUSABLE, Row, is_image
from rasterloom.sources.readers.tally import Tally
from rasterloom.sources.readers.tar import BLOCK, Gap, Member, members

IS_NIGHT = settings.get_current_profile_name() == "night"
SOME = settings(
    max_examples=3000 if IS_NIGHT else 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PARTS = ("a", "b", "22.05", "22.06", "St. Ives", "ü", "日本", "x" * 101, "y" * 60, "#%", "._", "x y", "d")
SUFFIXES = (".jpg", ".JPG", ".txt", ".TXT", ".json", ".caption", ".seg.png", ".jpg.txt", ".npy", ".heic", "")
NAME = st.tuples(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3), st.sampled_from(SUFFIXES)).map(
    lambda drawn: "/".join(drawn[0]) + drawn[1]
)
KINDS = (
    *[tarfile.REGTYPE] * 8,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    b"7",
    b"\0",
)


@dataclass(frozen=True)
class Piece:
    """A member as it is written."""

    name: str
    data: bytes
    kind: bytes


PIECE = st.builds(Piece, NAME, st.binary(max_size=700) | st.just(b"x" * 2000), st.sampled_from(KINDS))
ARCHIVE = st.tuples(st.lists(PIECE, max_size=6), st.sampled_from(FORMATS))


def packed(pieces: list[Piece], form: int) -> bytes:
    if form == tarfile.USTAR_FORMAT and any(len(piece.name.encode()) > 99 for piece in pieces):
        form = tarfile.GNU_FORMAT  # which has room for the name
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for piece in pieces:
            info = tarfile.TarInfo(piece.name)
            info.type, info.linkname = piece.kind, "target" * 30 if form else "target"
            is_file = piece.kind in (tarfile.REGTYPE, b"7", b"\0")
            info.size = len(piece.data) if is_file else 0
            tar.addfile(info, io.BytesIO(piece.data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Change:
    """A change of an archive's bytes; ``at`` counts blocks."""

    what: str
    at: int
    data: bytes

    def apply(self, tar: bytes) -> bytes:
        at = self.at % (len(tar) // BLOCK + 1) * BLOCK
        if self.what == "cut":
            return tar[: at + len(self.data)]
        if self.what == "insert":
            filled = self.data.ljust(-(-len(self.data) // BLOCK) * BLOCK, b"\xa5")
            return tar[:at] + filled + tar[at:]
        if self.what == "zeros":
            return tar[:at] + bytes(BLOCK * (1 + len(self.data) % 3)) + tar[at:]
        if self.what == "remove":
            return tar[:at] + tar[at + BLOCK :]
        start = at + (len(self.data) * 37) % BLOCK
        return tar[:start] + self.data + tar[start + len(self.data) :]


WHAT = ("cut", "insert", "zeros", "remove", "overwrite", "overwrite")
CHANGE = st.builds(Change, st.sampled_from(WHAT), st.integers(0, 60), st.binary(min_size=1, max_size=12))

# GNU tar's listing: kind and mode, owner, size, date, name.
LINE = re.compile(rb"([-dlhpbcVMsC?])\S* +\S+ +(\d+)(?:,\d+)? +\S+ +\S+ (.*)", re.DOTALL)


def gnu_list(tar: Path) -> tuple[list[tuple[str, str, int]], bool]:
    """List (kind, name, size) of each member by GNU tar, and whether all was well."""
    command = ["tar", "--list", "--ignore-zeros", "-vv", "--numeric-owner", "--utc", "--full-time"]
    command += ["--quoting-style=literal", "-f", str(tar)]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    found = []
    for line in done.stdout.splitlines():
        match = LINE.fullmatch(line)
        if match:
            kind, size = match[1].decode().replace("C", "-"), int(match[2])
            name = os.fsdecode(match[3].lstrip())
            name = name.partition(" -> " if kind == "l" else " link to ")[0] if kind in "lh" else name
            found.append((kind, name, size))
    return found, not done.returncode and not done.stderr.strip()


def ours(data: bytes) -> tuple[list[tuple[str, str, int]], list[str]]:
    """List members as `gnu_list` does, and what is said to be unreadable."""
    found, gaps = [], []
    for member in members(io.BytesIO(data), len(data)):
        if isinstance(member, Gap):
            gaps.append(member.reason)
        else:
            word = member.unusable
            kind = (
                "h"
                if word.startswith("it is a hard link")
                else "l"
                if word.startswith("it is a link")
                else "-"
            )
            found.append((kind, member.name, member.length))
    return found, gaps


@SOME
@given(st.lists(ARCHIVE, min_size=1, max_size=3), st.lists(CHANGE, max_size=2))
@example([([Piece("a.jpg", b"x", b"0")], tarfile.PAX_FORMAT)] * 2, [Change("overwrite", 0, b"\xff" * 9)])
def test_tars_are_read_as_gnu_tar_does(
    tmp_path: Path, archives: list[tuple[list[Piece], int]], changes: list[Change]
) -> None:
    data = b"".join(packed(pieces, form) for pieces, form in archives)
    for change in changes:
        data = change.apply(data)
    (tmp_path / "a.tar").write_bytes(data)
    theirs, well = gnu_list(tmp_path / "a.tar")
    found, gaps = ours(data)
    event(f"gnu well: {well}, gaps: {bool(gaps)}")
    if not changes:
        assert well and not gaps
    if gaps:
        assert all("\n" not in gap for gap in gaps)
        return
    rest = len(data) % BLOCK  # zeros that fill no block are nothing
    assert well or not data or (rest and not data[-rest:].strip(b"\0")), "GNU tar complains, and we do not"
    assert [item for item in found if not item[1].endswith("/")] == [
        (kind, name, size) for kind, name, size in theirs if kind in "-lh"
    ]


HOLES = ("--sparse", "--hole-detection=raw")
MADE = [(form, ()) for form in ("v7", "oldgnu", "gnu", "ustar", "posix")]


@pytest.mark.parametrize(("form", "sparse"), [*MADE, *((form, HOLES) for form in ("oldgnu", "gnu", "posix"))])
def test_archives_that_gnu_tar_made(tmp_path: Path, form: str, sparse: tuple[str, ...]) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / ("d" * 60)).mkdir(parents=True)
    long = "n" * (90 if form == "v7" else 100)
    for name in ("a.jpg", "a.txt", f"sub/{long}.jpg"[:99], "sub/ü é.jpg", "empty.jpg"):
        (tree / name).write_bytes(b"" if name == "empty.jpg" else name.encode() * 100)
    (tree / "hole.jpg").write_bytes(b"")
    os.truncate(tree / "hole.jpg", 300_000)
    with (tree / "hole.jpg").open("r+b") as file:
        for at in range(0, 300_000, 9000):
            file.seek(at)
            file.write(b"data")
    os.link(tree / "a.jpg", tree / "b.jpg")
    (tree / "c.jpg").symlink_to("a.jpg")
    tar = tmp_path / "a.tar"
    command = [
        "tar",
        "--create",
        f"--format={form}",
        *sparse,
        "--sort=name",
        "-f",
        str(tar),
        "-C",
        str(tree),
        ".",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    theirs, well = gnu_list(tar)
    assert well, done.stderr
    found, gaps = ours(tar.read_bytes())
    assert not gaps
    usable = [(kind, name) for kind, name, _ in found]
    assert [item for item in usable if not item[1].endswith("/")] == [
        (kind, name) for kind, name, _ in theirs if kind in "-lh"
    ]
    for member in members(io.BytesIO(tar.read_bytes()), tar.stat().st_size):
        assert isinstance(member, Member)
        if not member.unusable and not member.name.endswith("/"):
            part = tar.read_bytes()[member.offset : member.offset + member.length]
            assert part == (tree / member.name).read_bytes()
    holes = [
        m
        for m in members(io.BytesIO(tar.read_bytes()), tar.stat().st_size)
        if "hole" in getattr(m, "name", "")
    ]
    assert bool(getattr(holes[0], "unusable", "")) == bool(sparse)


# webdataset's rule (tariterators.py: base_plus_ext and group_by_keys), written down again.
SPLIT = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)


def webdataset_samples(data: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        key, sample = None, {}
        for info in tar:
            if not info.isreg():
                continue
            match = SPLIT.match(info.name)
            if match is None:
                continue
            own, suffix = match[1], match[2].lower()
            if own != key:
                if sample:
                    yield str(key), sample
                key, sample = own, {}
            assume(suffix not in sample)  # webdataset raises
            extracted = tar.extractfile(info)
            assert extracted
            sample[suffix] = extracted.read()
        if sample:
            yield str(key), sample


PLAIN_NAME = st.tuples(st.sampled_from(("a", "b", "d/a", "ü", "x" * 101)), st.sampled_from(SUFFIXES)).map(
    "".join
)
PLAIN = st.builds(Piece, PLAIN_NAME, st.binary(max_size=60), st.just(tarfile.REGTYPE))


def text_beside(sample: dict[str, bytes], suffix: str) -> str | None:
    """The caption that the documentation promises, where there is no JSON."""
    for name in ("txt", f"{suffix}.txt", "caption"):
        if name in sample:
            return sample[name].removeprefix(b"\xef\xbb\xbf").strip().decode("utf-8", "replace")
    return None


@SOME
@given(st.lists(PLAIN, min_size=1, max_size=12), st.sampled_from(FORMATS))
def test_samples_are_those_of_webdataset(tmp_path: Path, pieces: list[Piece], form: int) -> None:
    pieces = [piece for piece in pieces if not piece.name.endswith(".json")]
    data = packed(pieces, form)
    (tmp_path / "a.tar").write_bytes(data)
    expected = []
    for key, sample in webdataset_samples(data):
        decoded = [suffix for suffix in sample if suffix in ("jpg", "seg.png")]
        images = [suffix for suffix in ("jpg", "seg.png", "heic") if suffix in sample]
        chosen = ["jpg"] if "jpg" in sample else ["heic"] if "heic" in sample else images
        event(f"images: {len(decoded)}")
        expected += [(key, sample[suffix], text_beside(sample, suffix)) for suffix in chosen]
    found = []
    for row in read_rows(Source(path=str(tmp_path / "a.tar"))):
        if row.path is not None:
            place = locator.parse(row.path)
            text = row.values.get("caption")
            caption = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            image = data[place.first : place.first + place.second]
            found.append((row.values["__key__"], image, caption))
        else:
            assert row.values[UNUSABLE]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


@SOME
@given(st.lists(st.builds(Piece, NAME, st.binary(max_size=40), st.sampled_from(KINDS)), max_size=12))
def test_no_image_of_a_tar_is_lost(tmp_path: Path, pieces: list[Piece]) -> None:
    data = packed(pieces, tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    tally = Tally()
    rows = list(read_rows(Source(path=str(tmp_path / "a.tar")), tally))
    assert not tally.faults()
    counts = tally.files["a.tar"]
    listed = [m for m in members(io.BytesIO(data), len(data)) if isinstance(m, Member)]
    assert counts.records == len(listed) and counts.rows == len(rows)
    located = {locator.parse(row.path).first for row in rows if row.path}
    reasons = " ".join(str(row.values.get(UNUSABLE)) for row in rows)
    groups = itertools.groupby(
        (m for m in listed if not is_hidden(m.name)),
        key=lambda m: m.name.partition("/")[0] and stem_of(m.name),
    )
    for _, group in groups:
        sample = list(group)
        for image in sample:
            if not is_image(image.name) or image.name.endswith("/"):
                continue
            same = [m for m in sample if m is not image and is_image(m.name)]
            assert image.offset in located or image.name in reasons or same, image.name


def is_hidden(name: str) -> bool:
    return os.path.basename(name.rstrip("/")).startswith(".")


def stem_of(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


FOLDER_NAME = st.tuples(
    st.lists(st.sampled_from(("s", "1.x", "t-1", "ü")), max_size=2),
    st.sampled_from(("1", "2", "1.x", "t", "22.05", "St. Ives", "ü", "#%")),
    st.sampled_from(
        (".jpg", ".JPG", ".txt", ".TXT", ".caption", ".jpg.txt", ".heic", ".md", ".dat", "", ".png")
    ),
).map(lambda drawn: "/".join([*drawn[0], drawn[1] + drawn[2]]))
KNOWN = (".jpg", ".png", ".heic")


def pathlib_pairs(root: Path) -> tuple[dict[str, str | None], set[str]]:
    """Captions by image, as a few lines of pathlib find them, and the texts that were taken."""
    found: dict[str, str | None] = {}
    taken: set[str] = set()
    files = sorted(path for path in root.rglob("*") if path.is_file())

    def texts(image: Path) -> list[Path]:
        own, stem = image.suffix, image.name[: len(image.name) - len(image.suffix)]
        wanted = [stem + ".txt", stem + own + ".txt", stem + ".caption", stem + own + ".caption"]
        beside = {p.name: p for p in files if p.parent == image.parent}
        upper = {n[: -len(s)] + s.lower(): p for n, p in beside.items() for s in (p.suffix,) if s}
        return list(dict.fromkeys(beside.get(name) or upper.get(name) for name in wanted if name in upper))  # type: ignore[arg-type]

    for known in (True, False):
        for image in files:
            suffix = image.suffix.lower()
            beside = [path for path in texts(image) if path]
            free = [path for path in beside if str(path) not in taken]
            if suffix in (".txt", ".caption", ".md") or (suffix in KNOWN) != known or not (known or free):
                continue
            name = str(image.relative_to(root))
            found[name] = beside[0].read_text() if beside else None
            if known:
                taken |= {str(path) for path in beside}
    return found, taken


@SOME
@given(st.lists(FOLDER_NAME, min_size=1, max_size=14, unique=True), st.data())
def test_folders_are_read_as_pathlib_does(tmp_path: Path, names: list[str], data: Any) -> None:
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    for number, name in enumerate(names):
        path = root / name
        if any((root / parent).is_file() for parent in Path(name).parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {number}")
    assume(root.exists())
    expected, _ = pathlib_pairs(root)
    tally = Tally()
    source = Source(path=str(root), kind="folder", name="n")
    rows: list[Row] = list(read_rows(source, tally))
    found = {
        locator.parse(str(row.path)).file: (row.values.get("caption") or b"").decode() or None for row in rows
    }
    assert found == expected and len(rows) == len(found)
    assert not tally.faults()
    survey = survey_source(source)
    assert survey
    on_disk = sum(path.is_file() for path in root.rglob("*"))
    assert on_disk == survey.read.total() + sum(counts.total() for counts in survey.not_read.values())
    _, counts = read_sources([source])
    assert counts["read"] == len(expected)
