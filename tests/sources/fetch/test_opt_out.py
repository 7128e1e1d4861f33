"""The list of what is not taken."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from yarl import URL

from rasterloom.errors import OptOutError
from rasterloom.sources.fetch.opt_out import COLUMNS, load_opt_outs, opt_outs_digest, opt_outs_of

HASH = "ab" * 32
TEXT = f"""# people who said no
example.org
*.photos.test   # and all below it
https://shop.test/a/picture.jpg?size=2
blog.test/gallery/*
http://deep.test:8080/x*
{HASH.upper()}
"""


@pytest.fixture(params=["txt", "csv", "parquet"])
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"optout.{request.param}"
    if request.param == "txt":
        path.write_text(TEXT)
        return str(path)
    columns = {
        "host": ["example.org", "photos.test", None],
        "url": [None, None, "https://shop.test/a/picture.jpg?size=2"],
        "prefix": ["blog.test/gallery/", "http://deep.test:8080/x", ""],
        "sha256": [HASH.upper(), None, None],
        "why": ["asked", "asked", "asked"],
    }
    if request.param == "csv":
        pacsv.write_csv(pa.table(columns), path)
    else:
        pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("url", "listed_"),
    [
        ("http://example.org/", True), ("https://EXAMPLE.org/a", True), ("http://img.example.org/a", True),
        ("http://example.org./a", True), ("http://example.org:81/a", True),
        ("http://notexample.org/", False), ("http://example.org.evil.test/", False), ("http://org/", False),
        ("http://photos.test/a", True), ("http://a.b.photos.test/a", True),
        ("http://shop.test/a/picture.jpg?size=2", True), ("https://shop.test:443/a/picture.jpg?size=2#x", 1),
        ("http://shop.test/a/picture.jpg?size=3", False), ("http://shop.test/a/picture.jpg", False),
        ("https://blog.test/gallery/1/a.jpg", True), ("http://blog.test/gallery", False),
        ("http://deep.test:8080/xyz", True), ("http://deep.test/xyz", False),
    ],
)  # fmt: skip
def test_every_kind_of_entry_in_every_kind_of_file(listed: str, url: str, listed_: bool) -> None:
    assert (load_opt_outs(listed).of_url(URL(url)) is not None) == listed_


def test_hashes_and_no_list(listed: str) -> None:
    assert load_opt_outs(listed).hashes == {HASH}
    assert load_opt_outs(None).of_url(URL("http://example.org/")) is None


def test_many_prefixes_that_begin_one_another(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("h.test/a/b/*\nh.test/a/*\nh.test/a/b/c*\nh.test/b*\nh.test/a0*\n")
    found = load_opt_outs(str(tmp_path / "l.txt"))
    assert found.prefixes == ("h.test/a/", "h.test/a0", "h.test/b")
    for path, expected in {"a/b/z": True, "a/": True, "a": False, "a0": True, "b": True, "c": False}.items():
        assert (found.of_url(URL(f"http://h.test/{path}")) is not None) == expected, path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"example.org\nnot a host\n", ["a.txt, line 2", "not a host"]),
        ("a.csv", b"domain,why\nexample.org,x\n", ["host, url, prefix, sha256", "domain, why"]),
        ("a.csv", b"sha256\nabc\n", ["abc", "64 hex"]),
        ("a.csv", b"phash\n0123456789abcdef~17\n", ["0123456789abcdef~17", "16 hex digits", "~0 to ~16"]),
        ("a.txt", b"0123456789abcdef~17\n", ["a.txt, line 1", "0123456789abcdef~17"]),
        ("a.txt", b"0123456789abcde\n", ["a.txt, line 1", "0123456789abcde"]),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptOutError) as error:
        load_opt_outs(str(tmp_path / name))
    for word in words:
        assert word in str(error.value)


hashes = st.integers(0, 2**64 - 1)


@given(
    st.lists(st.tuples(hashes, st.integers(0, 16)), max_size=9),
    st.lists(
        st.tuples(st.integers(0, 8), st.sets(st.integers(0, 63), max_size=18) | st.just(set())), max_size=9
    ),
    st.lists(hashes, max_size=3),
    st.sampled_from([1, 5, 1 << 21]),
)
def test_perceptual_hashes_within_the_radius_of_an_entry(entries, changed, others, compared) -> None:
    """Hashes that differ from an entry's in some bits, and others, against Python's own count."""
    values = [
        entries[number % len(entries)][0] ^ sum(1 << bit for bit in bits)
        for number, bits in changed
        if entries
    ]
    values += others
    columns = {name: [] for name in COLUMNS}
    columns["phash"] = [f"{value:016X}~{radius}" if radius else f"{value:016x}" for value, radius in entries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rasterloom.sources.fetch.opt_out.COMPARED", compared)
        found = opt_outs_of(columns, "a list").near(np.array(values, np.uint64))
    expected = [any((v ^ entry).bit_count() <= radius for entry, radius in entries) for v in values]
    assert found.tolist() == expected


def test_an_image_near_a_listed_hash_is_not_kept(
    site: Any, fetch: Callable[..., list[dict[str, Any]]], jpeg: bytes, tmp_path: Path
) -> None:
    """Whatever the size and the quality: its hash differs in few bits."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(jpeg))
    image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(buffer, "JPEG", quality=40)
    site.answers |= {"/a.jpg": jpeg, "/again.jpg": buffer.getvalue()}
    rows = fetch("/a.jpg", "/again.jpg")
    one, two = (int(row["phash"], 16) for row in rows)
    bits = (one ^ two).bit_count()
    assert bits <= 8
    path = tmp_path / "optout.csv"
    for radius, errors in ((bits, ["opt_out", "opt_out"]), (0, ["opt_out", None if bits else "opt_out"])):
        path.write_text(f"phash\n{one:016x}~{radius}\n")
        assert [row["error"] for row in fetch("/a.jpg", "/again.jpg", opt_out=str(path))] == errors
    path.write_text(f"phash\n{one ^ 0xFFFF:016x}~15\n")
    assert fetch("/a.jpg", opt_out=str(path))[0]["error"] is None


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for read in (load_opt_outs, opt_outs_digest):
        with pytest.raises(OptOutError, match=r"fetch\.opt_out: .*none\.txt"):
            read(str(tmp_path / "none.txt"))


def test_what_is_listed_is_not_asked_for_and_not_kept(
    site: Any, fetch: Callable[..., list[dict[str, Any]]], jpeg: bytes, tmp_path: Path
) -> None:
    async def to_listed(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/private/b.jpg"})

    other = jpeg + b"\0"
    site.answers |= {"/a.jpg": jpeg, "/private/b.jpg": jpeg, "/to": to_listed, "/known.jpg": other}
    path = tmp_path / "optout.txt"
    path.write_text(f"127.0.0.1:{site.port}/private/*\n{hashlib.sha256(other).hexdigest()}\n")
    rows = fetch("/a.jpg", "/private/b.jpg", "/to", "/known.jpg", opt_out=str(path))
    assert [row["error"] for row in rows] == [None, "opt_out", "opt_out", "opt_out"]
    assert site.asked["/private/b.jpg"] == 0
    path.write_text("127.0.0.1:1/*\n")  # a list that changes is read again
    assert fetch("/known.jpg", opt_out=str(path))[0]["error"] is None
