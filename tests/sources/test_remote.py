"""Sources that lie where neither a disk nor S3 is: a real HTTP server, by fsspec."""

import gzip
import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers.registry import source_digest

CSV = b"url,caption\nhttp://a/1,one\nhttp://a/2,two\n"


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(
        pa.table({"url": ["http://a/1", "http://a/2"], "caption": ["one", "two"], "image": [b"x", b"y"]}), out
    )
    return out.getvalue()


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server of files that knows ranges: its address, and what it holds."""
    held = {"/a.csv": CSV, "/b.csv.gz": gzip.compress(CSV), "/c.parquet": parquet()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            data = held.get(self.path)
            status, body = (200, data) if data is not None else (404, b"")
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and data is not None:
                start, end = int(asked[1]), int(asked[2] or len(data) - 1)
                status, body = 206, data[start : end + 1]
            self.send_response(status)
            self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data or b'')}")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", held
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["a.csv", "b.csv.gz", "c.parquet"])
def test_a_list_that_a_server_holds(served: tuple[str, dict[str, bytes]], name: str) -> None:
    address, _ = served
    source = Source(path=f"{address}/{name}")
    check_sources([source])
    table, _ = read_sources([source])
    assert table["caption"].to_pylist() == ["one", "two"]
    assert table["source"].to_pylist() == [name.partition(".")[0]] * 2


def test_images_in_a_file_that_a_server_holds(served: tuple[str, dict[str, bytes]]) -> None:
    address, _ = served
    source = Source(path=f"{address}/c.parquet", image="image")
    table, _ = read_sources([source])
    found = fetch_shard(table, Fetch(robots=False), shard=0, sources=[source])
    assert found["error"].to_pylist() == ["not_an_image"] * 2  # so their bytes were read


def test_a_file_that_a_server_lacks(served: tuple[str, dict[str, bytes]]) -> None:
    address, _ = served
    with pytest.raises(SourceError) as caught:
        check_sources([Source(path=f"{address}/d.csv")])
    assert str(caught.value).startswith(f"{address}/d.csv: ") and "\n" not in str(caught.value)


def test_a_digest_follows_what_a_server_holds(served: tuple[str, dict[str, bytes]]) -> None:
    address, held = served
    source = Source(path=f"{address}/a.csv")
    first = source_digest(source)
    assert source_digest(source) == first
    held["/a.csv"] += b"http://a/3,three\n"
    assert source_digest(source) != first


@pytest.mark.parametrize("path", ["nosuch://bucket/a.csv", "az://container/a.csv", "lance://a/b.lance"])
def test_what_no_library_opens_is_one_line(path: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_sources([Source(path=path)])
    assert str(caught.value).startswith(path.rpartition("/")[0]) and "\n" not in str(caught.value)
