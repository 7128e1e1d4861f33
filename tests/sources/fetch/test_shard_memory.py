"""Memory of a worker that fetches: the images of its shards wait in files, however many there are."""

import errno
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.errors import StorageError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import IMAGES
from rasterloom.sources.fetch import backlog
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import read_sources

COUNT = 100  # images of some 0.8 MB each
MEMORY_BYTES, PIECE_BYTES = 8 * 2**20, 4 * 2**20
GROWTH = 40_000_000
PROGRAM = """
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch import backlog
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import read_sources
from rasterloom.storage.parquet_options import IMAGE_PARQUET

def anonymous():
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])

def watch():
    while True:
        seen[0] = max(seen[0], anonymous())
        time.sleep(0.002)

folder, backlog.MEMORY_BYTES, backlog.PIECE_BYTES = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sources, config = [Source(path=str(folder / "images"), kind="folder", caption="none")], Fetch(concurrency=4)
pairs, _ = read_sources(sources)
pq.write_table(fetch_shard(pairs[:2], config, shard=0, sources=sources), folder / "warm.parquet")
seen, before = [0], anonymous()
threading.Thread(target=watch, daemon=True).start()
pq.write_table(
    fetch_shard(pairs, config, shard=0, sources=sources), folder / "images.parquet", **IMAGE_PARQUET
)
print(seen[0] - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard")
    (folder / "images").mkdir()
    for number in range(COUNT):
        file = BytesIO()
        noise = Image.frombytes("RGB", (700, 500), os.urandom(700 * 500 * 3))
        noise.save(file, "JPEG", quality=95, subsampling=0)
        (folder / "images" / f"{number:02d}.jpg").write_bytes(file.getvalue())
    return folder


def received(folder):
    return [path.read_bytes() for path in sorted((folder / "images").iterdir())]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much it was")
def test_a_shard_is_not_held_in_memory(folder):
    program = [sys.executable, "-c", PROGRAM, folder, str(MEMORY_BYTES), str(PIECE_BYTES)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sent = received(folder)
    assert int(done.stdout) < GROWTH < sum(map(len, sent)) / 2
    assert pq.read_table(folder / "images.parquet")["image"].to_pylist() == sent


@pytest.fixture
def tasks(tmp_path):
    """Rows of one image, of several, of text alone, and one that fails."""
    (tmp_path / "images").mkdir()
    for name in "abcd":
        Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(tmp_path / "images" / f"{name}.png")
    rows = [
        (["a.png"], "<|image|>What is it? "),
        (["b.png", "c.png"], "<|image|>And here?<|image|> "),
        (["missing.png"], "<|image|>Why? "),
        ([], "Without an image"),
        (["d.png"], "<|image|>The last. "),
    ]
    samples = [
        {
            "image": [f"images/{name}" for name in names],
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "So."}],
        }
        for names, text in rows
    ]
    (tmp_path / "train.json").write_text(json.dumps(samples))
    return [Source(path=str(tmp_path / "train.json"))]


@pytest.mark.parametrize("limits", [(0, 1), (0, 2**20), (13_000, 1)], ids=str)
def test_rows_are_the_same_wherever_they_wait(tasks, monkeypatch, limits):
    pairs, _ = read_sources(tasks)
    expected = fetch_shard(pairs, Fetch(), shard=7, sources=tasks)
    assert [bool(more) for more in expected["more"].to_pylist()].count(True) == 1
    assert set(expected["status"].to_pylist()) == {"ok", "failed"}
    for name, value in zip(("MEMORY_BYTES", "PIECE_BYTES"), limits, strict=True):
        monkeypatch.setattr(backlog, name, value)
    table = fetch_shard(pairs, Fetch(), shard=7, sources=tasks)
    assert table.schema == IMAGES and table["image"].num_chunks >= (1 if limits[1] > 1 else 2)
    assert table.equals(expected)


def test_a_full_disk_is_said(tasks, monkeypatch):
    monkeypatch.setattr(backlog, "MEMORY_BYTES", 0)
    monkeypatch.setattr(backlog.pickle, "dump", full)
    with pytest.raises(StorageError, match="no space is left on this disk"):
        fetch_shard(read_sources(tasks)[0], Fetch(), shard=0, sources=tasks)


def full(row, file):
    raise OSError(errno.ENOSPC, "No space left on device")
