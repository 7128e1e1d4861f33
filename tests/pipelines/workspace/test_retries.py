"""Fetching failed rows again, and stopping when everything fails."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from rasterloom.errors import RecipeError, StepFailed
from rasterloom.pipelines import run as run_module
from rasterloom.pipelines.inspection.failures import failures, summary
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.retries import ask_for_retry, parse_classes
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import log

ROWS, SHARD = 24, 6
RECIPE = """
corpus: little
sources: [{path: pairs.parquet}]
fetch: {shard_rows: 6, retries: 0, max_side: SIDE, allow_hosts: ["127.0.0.1:PORT"]}
score: [flatness]
run: {cpus: 1, success_window: WINDOW}
"""


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


class Site:
    """Serves /0.png and so on; `status` says which of them fail, and how."""

    def __init__(self):
        self.status, self.asked = {}, Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handler(site):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.strip("/").removesuffix(".png")
                site.asked[name] += 1
                status = site.status.get(name, 200 if name.isdigit() else 404)
                body = picture(int(name)) if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def pictures_asked(self):
        found = sorted(int(name) for name in self.asked if name.isdigit())
        self.asked.clear()
        return found


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def recipe(tmp_path, site):
    """A function that gives the recipe, with another window for success or size of pictures."""
    urls = [f"http://127.0.0.1:{site.port}/{i}.png" for i in range(ROWS)]
    pq.write_table(
        pa.table({"url": urls, "caption": [f"{i}" for i in range(ROWS)]}), tmp_path / "pairs.parquet"
    )

    def write(window=1000, side=512):
        text = RECIPE.replace("PORT", str(site.port)).replace("WINDOW", str(window))
        (tmp_path / "recipe.yaml").write_text(text.replace("SIDE", str(side)))
        return load_recipe(tmp_path / "recipe.yaml")

    return write


def run(recipe, retry="", until="selection"):
    """Run in this process; return the names of the steps that ran, and what was printed."""
    screen = StringIO()
    planned = run_module.run(Workflow(recipe), until, Progress(Console(file=screen, width=300)), retry)
    return [p.step.name for p in planned if p.runs], screen.getvalue()


def images(recipe):
    corpus = Corpus.of(recipe)
    files = [f.name for f in corpus.files("images")]
    return pa.concat_tables([pq.read_table(corpus.store.path(f)) for f in files]).to_pylist(), files


def test_only_rows_of_the_class_are_fetched_again(recipe, site):
    site.status = {"2": 500, "3": 503, "13": 500, "20": 404}
    given = recipe()
    run(given)
    before, files = images(given)
    assert Counter(row["error"] for row in before) == {None: 20, "http_5xx": 3, "http_4xx": 1}
    scores = [f.name for f in Corpus.of(given).files("scores")]
    site.pictures_asked()

    site.status = {"3": 500}
    ran, printed = run(given, "http_5xx,timeout")
    assert "Fetching 3 rows again: http_5xx, timeout." in printed
    assert ran == ["images", "scores", "selection"]
    assert site.pictures_asked() == [2, 3, 13]
    after, files_after = images(given)
    assert [row["key"] for row in after] == [row["key"] for row in before]
    assert [row["error"] for row in after] == [{3: "http_5xx", 20: "http_4xx"}.get(i) for i in range(ROWS)]
    assert [row["attempts"] for row in after] == [2 if i in (2, 3, 13) else 1 for i in range(ROWS)]
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert i in (2, 3, 13) or old == new
    # Shards without such a row stay the files they are, and so do their scores.
    assert [old == new for old, new in zip(files, files_after, strict=True)] == [False, True, False, True]
    scores_after = [f.name for f in Corpus.of(given).files("scores")]
    assert [old == new for old, new in zip(scores, scores_after, strict=True)] == [False, True, False, True]
    assert len(log(Corpus.of(given), "images")) == 2

    assert run(given)[0] == []  # a plain run has nothing to do
    assert "nothing to retry" in run(given, "timeout")[1]
    assert site.pictures_asked() == []

    site.status = {}
    run(given, "http_5xx")  # a retry of what is left after a retry
    assert site.pictures_asked() == [3]
    after, _ = images(given)
    assert Counter(row["error"] for row in after) == {None: 23, "http_4xx": 1}

    # Another recipe and back again: the retried version is there, nothing is fetched.
    run(recipe(side=32))
    site.pictures_asked()
    assert run(recipe())[0] == ["images", "scores", "selection"]
    assert site.pictures_asked() == []
    assert images(given)[0] == after


def test_a_retry_that_was_stopped_goes_on(recipe, site):
    site.status = {"5": 500}
    given = recipe()
    with pytest.raises(RecipeError, match="run without retry first"):
        run(given, "http_5xx")
    run(given)
    site.status = {}
    site.pictures_asked()
    (step,) = (s for s in Workflow(given).steps if s.name == "images")
    ask_for_retry(Corpus.of(given), step, ["http_5xx"], print)  # and killed here
    (planned,) = (p for p in Workflow(given).plan() if p.step.name == "images")
    assert planned.runs and "retry" in planned.status.reason
    with pytest.raises(RecipeError, match="not finished"):
        run(given, "timeout")
    assert "goes on" in run(given, "http_5xx")[1]
    assert site.pictures_asked() == [5]
    assert run(given)[0] == []


def test_failures_by_class_and_host(recipe, site):
    site.status = {"2": 500, "3": 500, "20": 404}
    given = recipe()
    assert failures(given) == [] and summary(given, "host") == []
    run(given, until="images")
    host = f"127.0.0.1:{site.port}"
    by_reason = [(g.name, g.pairs, g.mostly) for g in summary(given, "reason")]
    assert by_reason == [
        ("failed: http_5xx", 2, f"{host} (2)"),
        ("failed: http_4xx", 1, f"{host} (1)"),
    ]
    (group,) = summary(given, "host")
    assert (group.name, group.pairs, group.mostly) == (host, 3, "failed: http_5xx (2)")
    assert group.place.startswith(f"http://{host}/") and "answered" in group.detail
    assert {f.url.rpartition("/")[2] for f in failures(given, "http_5xx")} == {"2.png", "3.png"}
    assert len(failures(given, "failed: http_4xx", host.upper())) == 1
    assert failures(given, None, "elsewhere.test") == []
    assert len(failures(given, limit=2)) == 2


def test_a_fetch_that_goes_wrong_stops_and_keeps_what_it_has(recipe, site):
    site.status = {str(i): 503 for i in range(7, ROWS)}
    with pytest.raises(StepFailed) as error:
        run(recipe(window=6))
    for words in (
        "images: stopped",
        "0 of the last 6 pairs",
        "http_5xx 6",
        "answered 503",
        "run.min_success",
    ):
        assert words in str(error.value)
    assert {0, 5} <= set(site.pictures_asked())
    site.status = {}
    run(recipe(window=6))
    assert not {0, 5} & set(site.pictures_asked())
    rows, _ = images(recipe())
    # How many shards were finished by the time of the verdict is a matter of luck; they stay as they are.
    outcomes = Counter(row["error"] or "ok" for row in rows)
    assert set(outcomes) <= {"ok", "http_5xx"} and outcomes["ok"] >= 7 and outcomes.total() == ROWS


@pytest.mark.parametrize("text", ["", "timeuot", "timeout,,x"])
def test_classes_that_there_are_not(text):
    with pytest.raises(RecipeError, match="http_5xx"):
        parse_classes(text)
