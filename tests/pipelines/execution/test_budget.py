"""A run whose nodes cost more than its recipe allows stops as SIGTERM stops it."""

import time
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from rasterloom.errors import STOPPED, STOPPED_TEXT
from rasterloom.pipelines.execution import budget as module
from rasterloom.pipelines.execution.budget import budget, limit_text, price_of_an_hour
from rasterloom.recipe.run import Run
from rasterloom.utils.sigterm import sigterm

NODES = [{"CPU": 4.0, "GPU": 1.0, "node:__internal_head__": 1.0}, {"CPU": 16.0, "memory": 1e9}]


@pytest.fixture(autouse=True)
def nothing_came(monkeypatch):
    monkeypatch.setattr(sigterm, "came", False)
    monkeypatch.setattr(module, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)


def asked(max_usd, cpu=0.05, gpu=2.0):
    return Run.model_validate({"max_usd": max_usd, "price": {"cpu": cpu, "gpu": gpu}})


@pytest.fixture
def cluster(monkeypatch):
    """A cluster at which each look takes half an hour; ``looks`` are its nodes, the last for ever."""
    made = SimpleNamespace(now=0.0, looks=[])

    def look():
        made.now += 1800
        return made.looks.pop(0) if len(made.looks) > 1 else made.looks[0]

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(module, "resources_there", look)
    return made


def test_all_cpus_and_gpus_of_all_nodes_are_paid_for():
    assert price_of_an_hour(asked(10), NODES) == pytest.approx(20 * 0.05 + 2.0)


def test_a_run_whose_nodes_cost_too_much_is_stopped(cluster):
    """The time before it is connected counts, too, and nodes come and go."""
    said = []
    cluster.looks = [None, NODES[:1], NODES, [], NODES]  # 0, then 2.2, 3.7, 3.7 and 5.2 dollars in all
    with pytest.raises(KeyboardInterrupt), budget(asked(4.0), said.append):
        time.sleep(60)
    assert said == ["Its $4.00 (run.max_usd) are spent: its nodes cost $3.00 an hour"]
    assert sigterm.came and cluster.now == 5 * 1800


def test_a_run_within_its_limit_is_left_alone(cluster):
    said = []
    cluster.looks = [[]]
    for run in (Run(), asked(0.01)):
        with budget(run, said.append):
            time.sleep(0.1)
    assert cluster.now > 2 * 1800 and said == [] and not sigterm.came


def test_a_limit_takes_a_price():
    with pytest.raises(ValidationError, match="max_usd: takes the price of an hour"):
        Run.model_validate({"max_usd": 5})


def test_a_plan_says_how_much_the_limit_buys(rasterloom, tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a.test/1.jpg,one\n")
    recipe = tmp_path / "recipe.yaml"
    text = f"corpus: demo\nworkspace: {tmp_path}/work\nsources: [{{path: pairs.csv}}]\n"
    recipe.write_text(text + "run: {max_usd: 10, price: {cpu: 0.05}}\n")
    code, printed, _ = rasterloom("plan", recipe)
    said = "A run stops when its nodes have cost $10.00 (run.max_usd): 200.0 h of a CPU."
    assert code == 0 and said in " ".join(printed.split())
    assert limit_text(asked(10)) == said.replace("CPU.", "CPU or 5.0 h of a GPU.")
    assert limit_text(Run()) == ""


def test_a_run_over_its_limit_ends_and_the_next_one_goes_on(workshop, undisturbed):
    limit = "max_usd: 20, price: {cpu: 36000}"  # reached in a second
    workshop.write(**{"run: {cpus: 2": f"run: {{{limit}, cpus: 2"})
    process = workshop.start("--until", "tokens")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == STOPPED and printed.rstrip().endswith(STOPPED_TEXT)
    assert "Its $20.00 (run.max_usd) are spent: its nodes cost $72,000 an hour" in printed
    workshop.write().run("--until", "tokens")
    assert workshop.tables() == undisturbed.tables()
