"""Jobs of a real cluster, a head and raylets on this machine, through the real Jobs API, with its token."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import ranks
from listening import assert_only_loopback

import rasterloom
from rasterloom.pipelines.training.stage_step import stage_job
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import work_folder
from rasterloom.recipe.loader import load_recipe
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.utils.ray_compat import LOOPBACK
from rasterloom.versions.corpus import Corpus

CLUSTER = Path(__file__).parents[1] / "support" / "ray_cluster.py"
STEPS = 120
TRAIN = f"""
train:
  heldout: 0.1
  dropout: 0
  checkpoint_every: 10
  stages: [{{target: 64, steps: {STEPS}, lr: 1.0e-3, warmup_steps: 2, batch_tokens: 700}}]
run:
  train_workers: {{min: 1, max: 2}}
  driver: {{cpus: 0}}
  steps: {{train: {{memory: 1MB, resources: {{train: 1}}, placement: STRICT_SPREAD}}}}
"""
STARTED = 120  # seconds that something may take on a busy machine
ENDED = 400


@dataclass
class Ray:
    """A cluster in a process of its own."""

    process: subprocess.Popen
    address: str
    session: Path
    env: dict[str, str]

    def tell(self, line):
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "ok\n"

    def command(self, *words, **options):
        """Start a command that finds the cluster by its environment alone."""
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT,
                "text": True,
                "env": self.env,
                **options,
            },
        )

    def run(self, *words, code=0, **options):
        """Run a command to its end, and return what it printed."""
        process = self.command(*words, **options)
        printed, _ = process.communicate(timeout=ENDED)
        assert process.returncode == code, printed
        return printed

    def jobs(self):
        """What the Jobs API tells of all jobs, as text."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{self.address}/api/jobs/")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


@pytest.fixture(scope="module")
def ray(tmp_path_factory, free_port):
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "token").write_text("a-token-that-nobody-guesses-0123456789")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Nothing of whoever tests, no S3 credentials above all, gets to the nodes but by the jobs themselves.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    env |= {
        "PYTHONPATH": str(Path(rasterloom.__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **LOOPBACK,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": address,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, str(CLUSTER), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )
    try:
        session = process.stdout.readline().strip()
        assert session, (folder / "log").read_text()
        cluster = Ray(process, address, Path(session), env)
        for name in ("a", "b"):
            cluster.tell(f'add {name} {{"num_cpus": 1, "resources": {{"fetch": 1}}}}')
        assert_only_loopback(psutil.Process(process.pid))
        yield cluster
        assert_only_loopback(psutil.Process(process.pid))
    finally:
        process.stdin.close()
        process.wait(STARTED)


def on_shared_disk(workshop, **changes):
    """The workshop's recipe, alone in a folder, with a workspace beside that all nodes see."""
    folder = workshop.recipe_file.parent
    (folder / "job").mkdir()
    workshop.recipe_file = folder / "job" / "recipe.yaml"
    return workshop.write(**{f"{folder}/job/work": f"{folder}/work", **changes})


def published(workshop, step):
    """The published shards of a step: their names, and what is in their files."""
    place = Path(workshop.recipe.workspace) / "little" / "staging" / step
    return {path.name: path.read_text() for path in place.glob("*/shards/*.json")}


def wait_until(true, process=None):
    until = time.monotonic() + ENDED
    while not true():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def read_until(process, words):
    """The lines that a process prints up to one that has the words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail("".join(lines))


@pytest.fixture(scope="module")
def disturbed(ray, workshop_at, tmp_path_factory):
    """A workshop whose job lost nodes in the middle of fetching and of tokenising."""
    workshop = workshop_at(tmp_path_factory.mktemp("disturbed") / "recipe.yaml").write()
    fetch, late = "{cpus: 0.5, resources: {fetch: 1}}", "{memory: 1MB, resources: {late: 1}}"
    driver = "{resources: {steady: 1}}"
    takes = f"run: {{driver: {driver}, steps: {{images: {fetch}, codes: {late}}}}}"
    on_shared_disk(workshop, **{"run: {cpus: 2, in_flight: 2}": takes})
    job = ray.command("rasterloom", "submit", workshop.recipe_file, "--until", "tokens", "--follow", "--code")
    lines = read_until(job, "images     new")
    ray.tell("remove b")
    ray.tell('add c {"num_cpus": 1, "resources": {"fetch": 1}}')
    lines += read_until(job, "codes/64 waits for a node: it takes CPU 1, late 1, memory 1.0 MB")
    ray.tell('add d {"num_cpus": 1, "resources": {"late": 1}}')
    ray.tell("remove d")
    ray.tell('add e {"num_cpus": 1, "resources": {"late": 1}}')
    rest, _ = job.communicate(timeout=ENDED)
    printed = "".join(lines) + rest
    assert job.returncode == 0, printed
    return workshop


def test_nodes_vanish_in_the_middle_of_fetching_and_of_tokenising(disturbed, undisturbed):
    assert disturbed.tables() == undisturbed.tables()


def test_a_node_vanishes_in_the_middle_of_training(ray, disturbed, tmp_path):
    """Two workers on a node each; one goes on alone, from the last checkpoint, on the same batches."""
    (tmp_path / "job").mkdir()
    recipe = tmp_path / "job" / "recipe.yaml"
    text = disturbed.recipe_file.read_text().splitlines()
    text = [line for line in text if not line.startswith("run:")]
    recipe.write_text("\n".join([*text, TRAIN]))
    for name in ("x", "y"):
        ray.tell(f'add {name} {{"num_cpus": 1, "resources": {{"train": 1}}}}')
    job = ray.command("rasterloom", "submit", recipe, "--until", "train", "--follow", "--log", "json")
    loaded = load_recipe(recipe)
    (stage,) = (step for step in Workflow(loaded).until("train") if step.name == "train/1-64")
    place = work_folder(Corpus.of(loaded), stage)
    wait_until(lambda: len(read_metrics(place / "metrics.jsonl")) > 30, job)
    ray.tell("vanish x")
    printed, _ = job.communicate(timeout=ENDED)
    assert job.returncode == 0, printed + ray.jobs()
    told = json_lines("\n".join(line for line in printed.splitlines() if line.startswith("{")))
    of_stage = [line for line in told if line.get("step") == "train/1-64" and "workers" in line]
    assert (of_stage[0]["workers"], of_stage[-1]["workers"]) == (2, 1)
    assert told[-1]["status"] == "SUCCEEDED"

    alone = replace(stage_job(Corpus.of(loaded), stage, tmp_path / "alone", loaded.run), workers=1)
    ranks.train(alone, 1)
    ours, theirs = read_metrics(place / "metrics.jsonl"), read_metrics(alone.metrics_file)
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    for name in ("tokens", "loss_tokens", "lr"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=2e-3)


def test_a_job_of_ray_s_own_command_is_stopped_and_one_of_ours_goes_on(ray, workshop, undisturbed):
    on_shared_disk(workshop, **{"cpus: 2, in_flight: 2": "in_flight: 1"})
    folder = workshop.recipe_file.parent
    submit = (
        "ray.scripts.scripts job submit --no-wait --working-dir . -- python -m rasterloom run recipe.yaml"
    )
    printed = ray.run(*submit.split(), "--until", "tokens", cwd=folder)
    wait_until(lambda: published(workshop, "images"))
    (job,) = [
        job
        for job in json_lines(ray.run("rasterloom", "jobs", "list", "--format", "json"))
        if job["status"] == "RUNNING"
    ]
    assert job["id"] in printed and job["entrypoint"].endswith("rasterloom run recipe.yaml --until tokens")
    assert f"{job['id']}: STOPPED" in ray.run("rasterloom", "jobs", "stop", job["id"][-8:])
    assert "it had ended before" in ray.run("rasterloom", "jobs", "stop", job["id"])
    assert "Stopped. What was finished is kept" in ray.run("rasterloom", "jobs", "logs", job["id"])
    before = published(workshop, "images")

    printed = ray.run("rasterloom", "submit", workshop.recipe_file, "--until", "tokens", "--follow")
    assert (
        "pairs" in printed
        and "done before, nothing to do" in printed
        and printed.rstrip().endswith("SUCCEEDED")
    )
    assert before.items() <= published(workshop, "images").items()
    assert workshop.tables() == undisturbed.tables()


def test_a_secret_reaches_the_job_and_is_shown_nowhere(ray, workshop, seaweedfs):
    secret = seaweedfs.variables["AWS_SECRET_ACCESS_KEY"]
    catalog = {name: value for name, value in seaweedfs.catalog.items() if name != "credential"}
    place = f"workspace: s3://lake/onacluster\ncatalog: {json.dumps(catalog)}"
    workshop.write(
        **{
            f"workspace: {workshop.recipe_file.parent / 'work'}": place,
            "corpus: little": "corpus: onacluster",
        }
    )
    mine = {**seaweedfs.variables, "PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL": f"admin:{secret}"}
    names = [word for name in mine for word in ("--env", name)]
    words = ("rasterloom", "submit", workshop.recipe_file, "--until", "pairs", *names)
    shown = ray.run(*words, "--dry-run", env={**ray.env, **mine})
    assert "AWS_SECRET_ACCESS_KEY" in shown and "recipe.yaml" in shown
    printed = ray.run(*words, "--follow", env={**ray.env, **mine})
    text = workshop.recipe_file.read_text()
    workshop.recipe_file.write_text(text.replace(json.dumps(catalog), json.dumps(seaweedfs.catalog)))
    assert "1 ran now" in printed and workshop.rows("pairs")
    shown += printed + ray.jobs() + ray.run("rasterloom", "jobs", "list", "--format", "json")
    logs = [path for path in (ray.session / "logs").rglob("*") if path.is_file()]
    assert len(logs) > 5
    for text in (shown, *(path.read_text(errors="replace") for path in logs)):
        assert secret not in text


def test_without_the_token_or_with_another_it_is_one_line_that_says_so(ray, workshop, tmp_path):
    on_shared_disk(workshop)
    (tmp_path / "other").write_text("another-token-0123456789-0123456789")
    words = ("rasterloom", "submit", workshop.recipe_file)
    for change in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}):
        printed = ray.run(*words, env={**ray.env, **change}, code=1)
        assert len(printed.strip().splitlines()) == 1
        assert "the cluster asks for its token" in printed and "RAY_AUTH_TOKEN_PATH" in printed
    assert "workers of CPU 1 each (pairs, images" in ray.run("rasterloom", "doctor", workshop.recipe_file)
    assert "nobody answers at http://127.0.0.1:9" in ray.run(
        *words, "--address", "http://127.0.0.1:9", code=1
    )
    assert "no job of an id that ends in xyz" in ray.run("rasterloom", "jobs", "follow", "xyz", code=1)


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]
