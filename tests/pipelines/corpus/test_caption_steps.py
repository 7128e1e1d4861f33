"""Captioners as steps: what runs again, what is asked again, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from io import StringIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from caption_endpoint import prompt_of, serving
from PIL import Image
from rich.console import Console

from rasterloom.errors import RecipeError, StepFailed
from rasterloom.pipelines import run as run_module
from rasterloom.pipelines.maintenance.takedown import take_down
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.diff import diff
from rasterloom.versions.refs import tag

IMAGES = 24
RECIPE = """
corpus: little
workspace: work
sources: [{{path: photos/list.jsonl, image: file, caption: {caption}}}]
fetch: {{shard_rows: 10}}
score: [flatness]
keep: {keep}
dedup: {{exact: false, phash_radius: null}}
caption:
  shard_rows: 4
  keep: "{rule}"
  by:
    - name: vlm
      endpoint: {{url: "{url}", model: eye-1, concurrency: 2, down_after: 6, retries: 0, {more}}}
      prompt: "{prompt} JSON, please: short, long, tags. It was called {{{{ alt }}}} ({{{{ meta.place }}}})."
      answers: [short, long, tags]
    - {{name: other, field: "texts[*]"}}
tokenize: {{targets: [64], text_vocab: 300}}
run: {{cpus: 2, in_flight: 4}}
"""


@pytest.fixture
def shop(tmp_path, warm_ray):
    with serving() as (endpoint, url):
        yield Shop(tmp_path, endpoint, url)


class Shop:
    """A folder of images, a recipe that captions them, and the endpoint that it names."""

    def __init__(self, folder, endpoint, url):
        self.folder, self.endpoint, self.url = folder, endpoint, url
        photos = folder / "photos"
        photos.mkdir()
        rng, rows = np.random.default_rng(0), []
        for number in range(IMAGES):
            side = 64 + 4 * number
            pixels = rng.integers(0, 80, (side, side, 3), np.uint8)
            pixels[..., number % 3] += 150
            Image.fromarray(pixels).save(photos / f"{number:02d}.png")
            texts = [f"text {n} of {number}" for n in range(number % 3)]
            rows.append({"file": f"{number:02d}.png", "text": f"n{number}", "place": "home", "texts": texts})
        (photos / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(self, **changes):
        values = {
            "caption": "text",
            "keep": "min_side >= 64",
            "rule": "not refusal",
            "prompt": "Look.",
            "more": "",
        }
        text = RECIPE.format(**values | changes, url=self.url)
        (self.folder / "recipe.yaml").write_text(text)
        return load_recipe(self.folder / "recipe.yaml")

    def run(self, until="tokens", retry_captions="", **changes):
        screen = StringIO()
        progress = Progress(Console(file=screen, width=300))
        planned = run_module.run(
            Workflow(self.recipe(**changes)), until, progress, retry_captions=retry_captions
        )
        self.printed = screen.getvalue()
        return [p.step.name for p in planned if p.runs]

    def rows(self, table="captions"):
        corpus = Corpus.of(load_recipe(self.folder / "recipe.yaml"))
        files = [corpus.store.path(file.name) for file in corpus.files(table)]
        return [row for file in files for row in pq.read_table(file).to_pylist()]


def once_each(rows):
    """The rows of the table are one a key, captioner, name and number."""
    seen = Counter((r["key"], r["captioner"], r["name"], r["number"]) for r in rows)
    return set(seen.values()) == {1}


def test_captions_are_made_once_and_only_what_changed_runs_again(shop):
    ran = shop.run()
    assert ran == [
        *("pairs", "images", "scores", "selection", "captions/vlm", "captions/other", "text"),
        *("codes/64", "prompts/64", "tokens/64"),
    ]
    rows = shop.rows()
    assert once_each(rows) and len(shop.endpoint.bodies) == IMAGES
    names = Counter(row["name"] for row in rows if row["error"] is None)
    assert names == {"short": 24, "long": 24, "tags": 24, "other": 24}
    assert Counter(row["error"] for row in rows) == {None: 96, "no_field": 8}
    assert "It was called n" in prompt_of(shop.endpoint.bodies[0])
    assert prompt_of(shop.endpoint.bodies[0]).endswith("(home).")
    tokens = shop.rows("tokens")
    assert len(tokens) == IMAGES and all(len(row["captions"]) >= 4 for row in tokens)
    assert shop.run() == []

    # A rule of the captions asks nobody, and encodes no image anew.
    assert shop.run(rule="words < 6") == ["prompts/64", "tokens/64"]
    assert len(shop.endpoint.bodies) == IMAGES
    kept = {one["name"] for row in shop.rows("tokens") for one in row["captions"]}
    assert kept == {"alt", "short", "tags", "other"}
    # Another rule for images asks for those that are new.
    assert "captions/vlm" in shop.run(keep="min_side >= 100")
    assert len(shop.endpoint.bodies) == IMAGES
    assert len({row["key"] for row in shop.rows()}) == 15
    shop.run(keep="min_side >= 80")
    assert len(shop.endpoint.bodies) == IMAGES + 5, "the version before had not the answers of these"
    # Money and speed change nothing, a prompt everything.
    assert shop.run(keep="min_side >= 80", more="timeout_s: 5") == []
    assert shop.run(keep="min_side >= 80", prompt="Look again.", until="captions") == ["captions/vlm"]
    assert len(shop.endpoint.bodies) == IMAGES + 5 + 20


def test_failures_are_rows_and_a_retry_asks_for_these_alone(shop):
    bad = lambda number, body: web.Response(status=400, text="no") if number % 5 == 0 else None  # noqa: E731
    shop.endpoint.misbehave = bad
    shop.run("captions")
    failed = [row for row in shop.rows() if row["error"] == "http_4xx"]
    assert len(failed) == 3 * 4 and "answered 400" in failed[0]["detail"]
    shop.endpoint.misbehave = lambda number, body: None
    assert shop.run("captions") == []
    with pytest.raises(RecipeError, match="no class of error is called http_4"):
        shop.run("captions", "http_4")
    assert shop.run("captions", "http_4xx") == ["captions/vlm"]
    assert "captions/vlm: asking for 12 rows again: http_4xx." in shop.printed
    assert len(shop.endpoint.bodies) == IMAGES + 4
    rows = shop.rows()
    assert once_each(rows) and Counter(row["error"] for row in rows) == {None: 96, "no_field": 8}
    assert shop.run("captions") == []


def test_a_budget_stops_the_run_and_more_of_it_goes_on(shop):
    with pytest.raises(StepFailed, match=r"budget is spent \(1,[0-9]{3} tokens"):
        shop.run("captions", more="budget_tokens: 1320")
    assert len(shop.endpoint.bodies) == 12
    with pytest.raises(StepFailed, match="budget"):
        shop.run("captions", more="budget_tokens: 1330")
    assert len(shop.endpoint.bodies) <= 14
    shop.run("captions", more="budget_tokens: 100000")
    assert len(shop.endpoint.bodies) == IMAGES, "nothing was paid twice"
    assert once_each(shop.rows())


def test_an_endpoint_that_is_down_stops_the_run(shop):
    shop.endpoint.misbehave = lambda number, body: web.Response(status=500)
    with pytest.raises(StepFailed, match=r"answered 500|not finished"):
        shop.run("captions")
    assert len(shop.endpoint.bodies) <= 6 + 2
    shop.endpoint.misbehave = lambda number, body: None
    shop.run("captions")
    rows = [row for row in shop.rows() if row["captioner"] == "vlm"]
    assert once_each(rows) and Counter(row["error"] for row in rows)[None] >= 3 * (IMAGES - 8)


def test_images_without_captions_get_theirs(shop):
    shop.run(caption="none")
    tokens = shop.rows("tokens")
    assert len(tokens) == IMAGES
    assert {row["captions"][0]["name"] for row in tokens} == {"short"}
    assert all(row["captions"][0]["ids"] == [] for row in tokens)
    assert all(row["n_tokens"] == len(row["input_ids"]) for row in tokens)


def test_a_takedown_takes_captions_too(shop):
    shop.run()
    corpus = Corpus.of(shop.recipe())
    tag(corpus, "before")
    key = shop.rows()[0]["key"]
    take_down(corpus, [key])
    for table in ("captions", "tokens"):
        rows = shop.rows(table)
        assert rows and key not in {row["key"] for row in rows}
    found = diff(replace(corpus, ref="before"), corpus, "captions")
    assert (found.added, found.changed) == (0, 0)
    assert found.removed == found.rows_a - found.rows_b >= 4
    assert shop.run() == []
    assert shop.run(rule="words < 6") == ["prompts/64", "tokens/64"]
    assert len(shop.rows("tokens")) == IMAGES - 1


def test_after_kills_no_row_is_lost_and_none_comes_twice(shop):
    """The driver is killed with SIGKILL in the middle of the captions, and begun again."""
    after_kills(shop, 1)


def after_kills(shop, kills):
    shop.recipe()
    shop.run("selection")
    shop.endpoint.seconds = 0.3
    asked = len(shop.endpoint.bodies)
    for _ in range(kills):
        process = started(shop)
        deadline = time.monotonic() + 200
        while len(shop.endpoint.bodies) < asked + 5 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        asked = len(shop.endpoint.bodies)
    shop.endpoint.seconds = 0
    process = started(shop)
    assert process.wait(timeout=200) == 0
    rows = shop.rows()
    assert once_each(rows)
    assert Counter(row["name"] for row in rows if row["error"] is None) == dict.fromkeys(
        ("short", "long", "tags", "other"), 24
    )
    # What was finished was not asked for again: at most the shards under way at each kill.
    assert len(shop.endpoint.bodies) <= IMAGES + kills * 4 * 4


def started(shop):
    arguments = [
        sys.executable,
        "-m",
        "rasterloom",
        "run",
        str(shop.folder / "recipe.yaml"),
        "--until",
        "captions",
    ]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
