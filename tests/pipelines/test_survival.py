"""Killing things in the middle of every step, and running again: nothing is lost, nothing comes twice."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import psutil
import pytest

from rasterloom.errors import FAILED
from rasterloom.pipelines.execution.controller import LOST
from rasterloom.versions.history import log

STEPS = ["pairs", "images", "scores", "selection", "text", "codes/64", "tokens/64"]


def workers_of(process):
    """Ray's worker processes of a driver that are at work on a shard."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in family:
        try:
            if "run_shard" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_gone(processes):
    """Wait until a killed driver's Ray has gone with it; its agents, which take a minute, are helped."""
    deadline = time.monotonic() + 300
    while alive := [process for process in processes if runs(process)]:
        assert time.monotonic() < deadline, f"Ray outlived its driver: {alive}"
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().endswith("Agent"):
                    process.kill()
        time.sleep(0.1)


def step_that_begins(line):
    """The step that a line of the driver's output says is beginning, if it says so."""
    name, _, reason = line.partition("  ")
    return name if name in STEPS and reason.strip() == "new" else None


def corpora(workshop, killed, steps):
    """New corpora until steps are killed in all of ``steps``: one may be over before the kill."""
    for _ in range(20):
        yield workshop.anew()
        if steps <= set(killed):
            return
    pytest.fail(f"killed in {killed} alone")


def test_the_driver_is_killed_in_every_step(workshop, undisturbed):
    chance, killed = random.Random(1), []
    for corpus in corpora(workshop, killed, set(STEPS)):
        kill_drivers(corpus, chance, killed)
        assert corpus.tables() == undisturbed.tables()


def kill_drivers(workshop, chance, killed):
    """Run until the end comes, and kill the driver in each step that is not killed yet."""
    while True:
        process = workshop.start("--until", "tokens")
        family = []
        for line in process.stdout:
            step = step_that_begins(line)
            if step and step not in killed:
                killed.append(step)
                time.sleep(chance.uniform(0, 1.5 if step == "images" else 0.3))
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=300)
        wait_gone(family)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL


def test_a_worker_is_killed_in_every_step(workshop, undisturbed):
    killed = []
    for corpus in corpora(workshop, killed, {"images", "scores", "codes/64"}):
        kill_workers(corpus, killed)
        assert corpus.tables() == undisturbed.tables()


def kill_workers(workshop, killed):
    """Run, and kill a worker in each step that is not killed yet."""
    process = workshop.start("--until", "tokens")
    current = ["pairs"]

    def kill():
        while process.poll() is None:
            step = current[0]
            if step not in killed and (workers := workers_of(process)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers[0].kill()
                    killed.append(step)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    for line in process.stdout:
        current[0] = step_that_begins(line) or current[0]
    assert process.wait(timeout=300) == 0
    killer.join()


def test_rounds_of_kills_on_s3(workshop, undisturbed, seaweedfs_in, tmp_path_factory):
    """Driver, workers and the S3 server are killed at random moments, a corpus after another.

    A run ends well, by the kill, or in one line; what comes of running again equals an undisturbed run.
    RASTERLOOM_KILL_ROUNDS says how many kills, RASTERLOOM_KILL_SEED which.
    """
    rounds, seed = (int(os.environ.get(f"RASTERLOOM_KILL_{n}", d)) for n, d in (("ROUNDS", 5), ("SEED", 1)))
    print(f"{rounds} kills, RASTERLOOM_KILL_SEED={seed}")
    chance = random.Random(seed)
    with seaweedfs_in(tmp_path_factory.mktemp("killed")) as server:
        while rounds > 0:
            workshop.on_s3(server)
            finished = False
            while not finished:
                with Watched(workshop.start("--until", "tokens")) as run:
                    while rounds > 0 and run.wait_for_work(chance.uniform(0.2, 5)):
                        kill_something(chance, run, server)
                        rounds -= 1
                    finished = run.ended_well()
            assert workshop.tables() == undisturbed.tables()
            steps = [v.record.step for v in log(workshop.corpus)]
            assert sorted(steps) == sorted(set(steps)), "no step was committed twice"


def kill_something(chance, run, server):
    """Kill one of the driver, a worker that is at work, and the server, which comes back after a while."""
    victim = chance.choice(["driver", "worker", "server"])
    if victim == "server":
        server.kill()
        time.sleep(chance.uniform(0, 3))
        server.start()
    elif victim == "worker" and (workers := workers_of(run.process)):
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(workers).kill()
    else:
        run.process.kill()


class Watched:
    """A run whose words are read as they come, and whose Ray is gone when the block ends."""

    def __init__(self, process):
        self.process = process
        self.printed = []
        self.working = threading.Event()
        self.family = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self):
        self._reader.start()
        return self

    def _read(self):
        for line in self.process.stdout:
            self.printed.append(line)
            if line.partition("  ")[0] in STEPS:
                self.working.set()
        self.working.set()  # it has ended

    def wait_for_work(self, seconds):
        """Wait until it has begun a step, and then some seconds; say whether it still runs."""
        self.working.wait(300)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family = psutil.Process(self.process.pid).children(recursive=True) or self.family
        return self.process.poll() is None

    def ended_well(self):
        code = self.process.wait(300)
        self._reader.join(300)
        printed = "".join(self.printed)
        assert code in (0, 1, -signal.SIGKILL) and "Traceback" not in printed, printed
        return code == 0

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self._reader.join(300)
        wait_gone(self.family)


def test_no_row_vanishes(undisturbed):
    """Every pair has a row in images, scores and selection, and is a token row or a failure."""
    from rasterloom.pipelines.inspection.failures import failures

    tables = undisturbed.tables()
    pairs = sorted(row["key"] for row in tables["pairs"])
    for name in ("images", "scores", "selection"):
        assert sorted(row["key"] for row in tables[name]) == pairs
    kept = [row["key"] for row in tables["tokens"]]
    assert sorted(kept + [f.key for f in failures(undisturbed.recipe)]) == pairs


def test_the_troubles_end_as_they_should(undisturbed, quickstart):
    from rasterloom.pipelines.inspection.failures import failures

    _, port = undisturbed.site
    dropped = {f.url: f for f in failures(undisturbed.recipe)}
    doubled = {f.detail.removeprefix("of ") for f in dropped.values() if "duplicate" in f.reason}
    troubles = quickstart("troubles")
    outcomes = {}
    for name, trouble in troubles.TROUBLES.items():
        url = "{site}/files/troubles/" + name if trouble.make else trouble.url
        url = url.replace("{site}", f"http://127.0.0.1:{port}") if url else url
        reason = dropped[url].reason if url in dropped else "kept"
        outcomes[name] = (url, reason, trouble.outcome)
    for name, (url, reason, outcome) in outcomes.items():
        if outcome == troubles.DUPLICATE:  # it or the one that it doubles is kept
            assert "duplicate" in reason or url in doubled, name
        elif outcome == troubles.RULE:
            assert reason.startswith("rule: "), name
        else:
            assert reason in (outcome, f"failed: {outcome}"), name


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_run_whose_ray_dies_says_what_to_do(workshop, undisturbed, name):
    """Ray's C++ code ends a driver without a raylet, which can then say nothing itself."""
    process = workshop.start("--until", "tokens")
    for line in process.stdout:
        if step_that_begins(line) == "images":
            family = psutil.Process(process.pid).children(recursive=True)
            (victim,) = (one for one in family if one.name() == name)
            victim.kill()
            break
    printed, _ = process.communicate(timeout=300)
    wait_gone(family)
    last = printed.rstrip().splitlines()[-1]
    if name == "gcs_server":
        assert (process.returncode, last) == (FAILED, LOST), printed
    assert process.returncode != 0
    assert "was lost" in last or last.startswith("images: "), printed
    assert "run the same command again" in last
    workshop.run("--until", "tokens")
    assert workshop.tables() == undisturbed.tables()
