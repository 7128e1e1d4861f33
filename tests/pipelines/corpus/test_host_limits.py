"""Limits of hosts that count for all workers of a run, on a real Ray, against a real server."""

import asyncio
import csv
import threading
import time
from io import BytesIO, StringIO

import pytest
import ray
from aiohttp import web
from PIL import Image
from rich.console import Console

from rasterloom.pipelines.corpus import host_limits
from rasterloom.pipelines.corpus.shard_work import plan_images
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.run import Run
from rasterloom.sources.host_order import MANY_ROWS
from rasterloom.storage.parquet_io import DataFile
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray

OWN_RAY = True
RATE, ROWS, WORKERS = 5, 30, 3
RECIPE = """
corpus: limited
workspace: {folder}/work
sources: [{{path: {folder}/list.csv}}]
fetch: {{host_rate: {rate}, shard_rows: 3, robots: false, allow_hosts: ["127.0.0.1:{port}"]}}
run: {{cpus: {workers}, host_limits: cluster}}
"""


@pytest.fixture
def server():
    """A real server: its port, and when it was asked."""
    asked, file = [], BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")

    async def answer(_):
        asked.append(time.monotonic())
        return web.Response(body=file.getvalue())

    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield runner.addresses[0][1], asked
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(runner.cleanup())
    loop.close()


def begin_workers(folder):
    """Start all workers, each with what it imports, so that none has the host to itself at first."""

    def begin(number):
        import rasterloom.sources.fetch.shard  # noqa: F401

        (folder / f"begun-{number}").touch()
        while len(list(folder.glob("begun-*"))) < WORKERS:
            time.sleep(0.05)

    ray.get([ray.remote(begin).remote(number) for number in range(WORKERS)])


def test_three_workers_ask_a_host_as_often_as_one(tmp_path, server):
    port, asked = server
    with open(tmp_path / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "caption"])
        rows.writerows([f"http://127.0.0.1:{port}/{i}.jpg", f"photo {i}"] for i in range(ROWS))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path, rate=RATE, port=port, workers=WORKERS))
    stop_local_ray()
    start_local_ray(num_cpus=WORKERS, object_store_memory=100 * 2**20)
    try:
        begin_workers(tmp_path)
        workflow = Workflow(load_recipe(recipe))
        run(workflow, "images", Progress(Console(file=StringIO())), "")
    finally:
        stop_local_ray()
    images = workflow.corpus.read("images")
    assert images["status"].to_pylist() == ["ok"] * ROWS and len(asked) == ROWS
    times = sorted(asked)
    assert times[-1] - times[0] > (ROWS - 1) / RATE - 0.5
    # A request may be a little late, and the next one on time: 6 at most, where three workers would make 15.
    assert max(sum(start <= other < start + 1 for other in times) for start in times) <= RATE + 1


def test_a_worker_that_outlives_ray_does_not_start_it_again():
    stop_local_ray()
    with pytest.raises(RuntimeError, match="Ray has ended"):
        host_limits.book_of_run(Fetch())("worker", {})
    assert not ray.is_initialized()


def test_only_a_long_list_shares_by_itself():
    shards = {
        rows: plan_images(None, {"pairs": [DataFile("pairs/0.parquet", rows)]}, Fetch(shard_rows=500_000))
        for rows in (MANY_ROWS, MANY_ROWS + 1)
    }
    assert [shard.now for shard in shards[MANY_ROWS]] == [None, None]
    assert all(shard.task.of_many for shard in shards[MANY_ROWS + 1])
    # What is published stays what it is: the name of a shard is that of its rows.
    assert [s.id for s in shards[MANY_ROWS]] == [s.id for s in shards[MANY_ROWS + 1]][:2]
    assert host_limits.shares_limits("auto", True) and not host_limits.shares_limits("auto", False)
    assert not host_limits.shares_limits("worker", True) and host_limits.shares_limits("cluster", False)


@pytest.mark.parametrize(
    ("settings", "pairs", "may_be_many", "said"),
    [
        ({}, 100, False, ""),
        ({}, 2_000_000, False, "together, as there are more than 1,000,000 pairs (run.host_limits)."),
        ({}, None, True, "together if there are more than 1,000,000 pairs (run.host_limits)."),
        ({}, None, False, ""),
        ({"host_limits": "cluster"}, 100, False, "together (run.host_limits: cluster)."),
        ({"host_limits": "worker"}, 2_000_000, False, ""),
    ],
)
def test_the_plan_says_it(recipe_of, settings, pairs, may_be_many, said):
    recipe = recipe_of(run=Run(**settings), fetch=Fetch(host_rate=5))
    line = host_limits.limits_text(recipe, pairs, may_be_many)
    assert line == (f"fetch.per_host: 8 and host_rate: 5 count for all workers {said}" if said else "")
    line = host_limits.limits_text(recipe_of(run=Run(**settings)), pairs, may_be_many)
    assert line == (f"fetch.per_host: 8 counts for all workers {said}" if said else "")


@pytest.fixture
def recipe_of(tmp_path):
    def make(**sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"corpus: c\nworkspace: {tmp_path}\nsources: [{{path: {tmp_path}/list.csv}}]\n")
        return load_recipe(path).model_copy(update=sections)

    return make
