"""A run that takes longer than its recipe allows stops as SIGTERM stops it."""

import time

import duckdb
import pytest

from rasterloom.errors import STOPPED, STOPPED_TEXT
from rasterloom.pipelines.execution.deadline import deadline
from rasterloom.utils.sigterm import sigterm


@pytest.fixture(autouse=True)
def nothing_came(monkeypatch):
    monkeypatch.setattr(sigterm, "came", False)


def test_a_run_that_is_in_time_is_left_alone():
    said = []
    for minutes in (None, 10):
        with deadline(minutes, said.append):
            pass
    assert said == [] and not sigterm.came


def test_a_run_that_takes_too_long_is_stopped():
    said = []
    with pytest.raises(KeyboardInterrupt), deadline(0.001, said.append):
        time.sleep(60)
    assert said == ["Its 0.001 minutes (run.deadline_minutes) are over"] and sigterm.came


def a_long_query(*_):
    with duckdb.connect() as connection:
        connection.execute("SELECT count(*) FROM range(100000000000) AS a(x) WHERE x % 7 = 9")


@pytest.mark.parametrize("work", [lambda *_: time.sleep(60), a_long_query], ids=["sleeps", "queries"])
def test_it_ends_with_an_exit_code_of_its_own(rasterloom, tmp_path, monkeypatch, work):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a.test/1.jpg,one\n")
    recipe = tmp_path / "recipe.yaml"
    text = f"corpus: demo\nworkspace: {tmp_path}/work\nsources: [{{path: pairs.csv}}]\n"
    recipe.write_text(text + "run: {deadline_minutes: 0.02}\n")
    monkeypatch.setattr("rasterloom.pipelines.run.run_steps", work)
    code, printed, error = rasterloom("run", recipe)
    assert code == STOPPED and error == f"{STOPPED_TEXT}\n"
    assert "Its 0.02 minutes (run.deadline_minutes) are over" in printed
