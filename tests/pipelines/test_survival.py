"""Killing things in the middle of every step, and running again: nothing is lost, nothing comes twice."""

import contextlib
import random
import signal
import threading
import time

import psutil

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


def wait_gone(processes):
    """Wait until a killed driver's Ray has gone with it; its agents, which take a minute, are helped."""
    deadline = time.monotonic() + 60
    while alive := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"Ray outlived its driver: {alive}"
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().endswith("Agent"):
                    process.kill()
        time.sleep(0.1)


def step_that_begins(line):
    """The step that a line of the driver's output says is beginning, if it says so."""
    name, _, reason = line.partition("  ")
    return name if name in STEPS and reason.strip() == "never run" else None


def test_the_driver_is_killed_in_every_step(workshop, undisturbed):
    chance = random.Random(1)
    killed = []
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
    assert killed[:2] == ["pairs", "images"] and len(killed) == len(STEPS)
    assert workshop.tables() == undisturbed.tables()


def test_a_worker_is_killed_in_every_step(workshop, undisturbed):
    process = workshop.start("--until", "tokens")
    current, killed = ["pairs"], []

    def kill():
        while process.poll() is None:
            step = current[0]
            if step not in killed and (workers := workers_of(process)):
                workers[0].kill()
                killed.append(step)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    for line in process.stdout:
        current[0] = step_that_begins(line) or current[0]
    assert process.wait(timeout=300) == 0
    killer.join()
    assert {"images", "scores", "codes/64"} <= set(killed)
    assert workshop.tables() == undisturbed.tables()


def test_no_row_vanishes(undisturbed):
    """Every pair has a row in images, scores and selection, and is a token row or a failure."""
    from rasterloom.pipelines.failures import failures

    tables = undisturbed.tables()
    pairs = sorted(row["key"] for row in tables["pairs"])
    for name in ("images", "scores", "selection"):
        assert sorted(row["key"] for row in tables[name]) == pairs
    kept = [row["key"] for row in tables["tokens"]]
    assert sorted(kept + [f.key for f in failures(undisturbed.recipe)]) == pairs


def test_the_troubles_end_as_they_should(undisturbed, quickstart):
    from rasterloom.pipelines.failures import failures

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
