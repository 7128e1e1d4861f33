"""The engine img2dataset: its rows in our table. Runs where a Python has it: `make img2dataset` makes one."""

import hashlib
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import IMAGES, PAIRS, ErrorClass
from rasterloom.sources.fetch import img2dataset as engine
from rasterloom.sources.fetch.img2dataset import class_of, fetch_shard_by_img2dataset, img2dataset_version

OWN = Path(__file__).parents[3] / ".venv-img2dataset" / "bin" / "python"


@pytest.fixture(scope="session")
def python() -> str:
    """A Python that has img2dataset: of the environment, of `make img2dataset`, or this one."""
    path = os.environ.get("IMG2DATASET_PYTHON") or (str(OWN) if OWN.exists() else sys.executable)
    try:
        img2dataset_version(path)
    except ValueError:
        pytest.skip("no Python with img2dataset: `make img2dataset` makes one")
    return path


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", ("http_4xx", 404)),
        ("failed_to_download", "HTTP Error 429: Too Many Requests", ("http_429", 429)),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", ("http_5xx", 503)),
        ("failed_to_download", "<urlopen error timed out>", ("timeout", None)),
        ("failed_to_download", "The read operation timed out", ("timeout", None)),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", ("dns", None)),
        ("failed_to_download", "<urlopen error [Errno 111] Connection refused>", ("connect", None)),
        ("failed_to_download", "[Errno 104] Connection reset by peer", ("connect", None)),
        ("failed_to_download", "Remote end closed connection without response", ("connect", None)),
        ("failed_to_download", "IncompleteRead(3 bytes read, 7 more expected)", ("incomplete", None)),
        (
            "failed_to_download",
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed>",
            ("tls", None),
        ),
        (
            "failed_to_download",
            "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.",
            ("too_many_redirects", 302),
        ),
        ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive", ("robots", None)),
        ("failed_to_download", "<urlopen error unknown url type: gopher>", ("blocked_scheme", None)),
        ("failed_to_resize", "Image decoding error", ("broken_image", None)),
        ("failed_to_resize", "image area too large", ("too_many_pixels", None)),
        ("failed_to_resize", "something new", ("broken_image", None)),
        ("failed_to_download", "something new", ("internal", None)),
    ],
)
def test_its_words_are_our_classes(status: str, message: str, expected: tuple[str, int | None]) -> None:
    assert class_of(status, message) == (ErrorClass(expected[0]), expected[1])


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Any:
    async def give(_: web.Request) -> web.Response:
        return web.Response(
            status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return give


def test_every_row_lands_in_the_table(
    python: str, site: Any, jpeg: bytes, canary: int, tmp_path: Path
) -> None:
    buffer = BytesIO()
    Image.open(BytesIO(jpeg)).resize((200, 100)).save(buffer, "PNG")
    site.answers |= {
        "/a.jpg": jpeg,
        "/b.png": buffer.getvalue(),
        "/500": answer(500),
        "/noai": answer(body=jpeg, X_Robots_Tag="noai"),
        "/loop": answer(302, Location="/loop"),
        "/page": b"<!DOCTYPE html>",
        "/listed": jpeg,
    }
    (tmp_path / "optout.txt").write_text(f"127.0.0.1:{site.port}/listed\n")
    cases: list[tuple[str | None, str, str | None]] = [
        (site.url("/a.jpg"), "a", None),
        (site.url("/b.png"), "b", None),
        (site.url("/none"), "c", "http_4xx"),
        (site.url("/500"), "d", "http_5xx"),
        (site.url("/noai"), "e", "robots"),
        (site.url("/loop"), "f", "too_many_redirects"),
        (site.url("/page"), "g", "broken_image"),
        (site.url("/listed"), "h", "opt_out"),
        (f"http://127.0.0.1:{canary}/x.jpg", "i", "blocked_address"),
        (f"http://localhost:{canary}/x.jpg", "j", "blocked_address"),
        ("file:///etc/hostname", "k", "blocked_scheme"),
        (None, "l", "bad_url"),
        (site.url("/a.jpg#2"), " ", "bad_caption"),
        (site.url("/a.jpg#3"), "m", None),
    ]
    pairs = pa.Table.from_pylist(
        [{"key": str(n), "url": url, "caption": text} for n, (url, text, _) in enumerate(cases)], schema=PAIRS
    )
    config = Fetch(
        engine="img2dataset",
        allow_hosts=(f"127.0.0.1:{site.port}",),
        max_side=100,
        retries=0,
        deadline_s=10,
        opt_out=str(tmp_path / "optout.txt"),
    )
    images = fetch_shard_by_img2dataset(pairs, config, shard=7, python=python)
    assert images.schema == IMAGES
    assert images["key"].to_pylist() == pairs["key"].to_pylist()
    assert images["error"].to_pylist() == [error for _, _, error in cases], images["detail"].to_pylist()
    first, second = images.slice(0, 2).to_pylist()
    assert first["image"] == jpeg and first["sha256"] == hashlib.sha256(jpeg).hexdigest()
    assert (first["shard"], first["http_status"], len(first["thumbnail"])) == (7, 200, 192)
    assert (second["width"], second["height"]) == (100, 50)
    assert (second["original_width"], second["original_height"]) == (200, 100)
    assert images["http_status"][2].as_py() == 404


def test_a_run_that_does_not_end_is_ended(
    python: str, raw_site: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = raw_site(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", drip=b"0")
    pairs = pa.Table.from_pylist([{"key": "1", "url": url, "caption": "a"}], schema=PAIRS)
    config = Fetch(engine="img2dataset", allow_hosts=(url.split("/")[2],), retries=0, deadline_s=1)
    monkeypatch.setattr(engine, "STARTS_S", 8.0)
    images = fetch_shard_by_img2dataset(pairs, config, shard=0, python=python)
    assert images["error"].to_pylist() == ["timeout"]


def test_a_python_without_it_is_named() -> None:
    with pytest.raises(ValueError, match="cannot be run"):
        img2dataset_version("/nowhere/python")
