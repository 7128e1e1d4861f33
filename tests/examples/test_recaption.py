"""The example of captions, whole: drawings, a server on loopback, the trial, the run, and what it leaves."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def server(free_port):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "recaption/server.py"), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "Running on" in process.stdout.readline()
    yield port
    process.terminate()
    process.wait()


def test_it_runs_whole(tmp_path, server):
    images = tmp_path / "work/recaption-images"
    subprocess.run([sys.executable, EXAMPLES / "recaption/images.py", "--out", images], check=True)
    text = (EXAMPLES / "recaption.yaml").read_text().replace("../work", "work").replace("8765", str(server))
    (tmp_path / "recipe.yaml").write_text(text + "\nrun: {cpus: 2, train_workers: 1}\n")

    def rasterloom(*words):
        command = [sys.executable, "-m", "rasterloom", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    rasterloom("run", "recipe.yaml", "--until", "selection")
    tried = rasterloom("caption", "recipe.yaml", "--try", "5", "--by", "model")
    assert "model" in tried and "USD" in tried
    page = (tmp_path / "caption-try.html").read_text()
    assert page.count("<figure") == 5 and "percent of it" in page
    rasterloom("run", "recipe.yaml")

    corpus = Corpus.of(load_recipe(tmp_path / "recipe.yaml"))
    tokens = [
        row
        for file in corpus.files("tokens")
        for row in pq.read_table(corpus.store.path(file.name)).to_pylist()
    ]
    assert all(len(row["captions"]) == 6 for row in tokens)  # alt, short, long, tags, two notes
    (metrics,) = tmp_path.glob("work/recaption/recaption/files/train/1-64/*/metrics.jsonl")
    rows = Counter()
    for line in map(json.loads, metrics.read_text().splitlines()):
        rows.update({name: of["rows"] for name, of in line.get("captions", {}).items()})
    assert set(rows) >= {"alt", "long", "short", "notes", "none"} and "tags" not in rows
    assert rows["long"] > rows["alt"]
    (report,) = tmp_path.glob("work/recaption/recaption/files/report/*/index.html")
    assert 'id="captions"' in report.read_text() and "Captions of the rows" in report.read_text()
