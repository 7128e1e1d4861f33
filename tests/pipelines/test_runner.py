"""Steps that make files, run by more than one driver at once."""

import threading
import time
from io import StringIO

import pytest
import ray
from pydantic import BaseModel
from rich.console import Console

from rasterloom.pipelines.progress import Progress
from rasterloom.pipelines.runner import StepFailed, run_step, start_ray
from rasterloom.pipelines.state import local_folder, status
from rasterloom.pipelines.step import FileStep
from rasterloom.recipe import Run
from rasterloom.storage import Store
from rasterloom.versions.tables import Corpus


class Nothing(BaseModel):
    pass


def test_two_runs_at_once_make_a_folder_once(tmp_path):
    corpus = Corpus("little", Store(str(tmp_path)))
    made = []

    def make(corpus, inputs, step, folder, run, progress):
        made.append(folder)
        (folder / "first").write_text("half")
        time.sleep(1.5)  # longer than the other run waits between two looks
        (folder / "second").write_text("whole")
        return {"files": 2}

    step = FileStep("thing", Nothing(), "1", make=make)
    screens = [StringIO(), StringIO()]
    runs = [
        threading.Thread(
            target=run_step, args=(corpus, step, Run(), "digest", Progress(Console(file=screen)))
        )
        for screen in screens
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(made) == 1
    assert status(corpus, step).done
    assert {p.name for p in local_folder(corpus, step).iterdir()} == {"first", "second"}


def test_what_a_stopped_run_left_is_not_taken_over(tmp_path):
    corpus = Corpus("little", Store(str(tmp_path)))

    def make(corpus, inputs, step, folder, run, progress):
        assert list(folder.iterdir()) == []
        (folder / "new").write_text("whole")
        return {}

    step = FileStep("thing", Nothing(), "1", make=make)
    (left := local_folder(corpus, step)).mkdir(parents=True)
    (left / "old").write_text("half")
    run_step(corpus, step, Run(), "digest", Progress(Console(file=StringIO())))
    assert [p.name for p in left.iterdir()] == ["new"]


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    def too_busy(**options):
        raise Exception("The current node timed out during startup.\nSee the logs.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_busy)
    monkeypatch.setattr("rasterloom.pipelines.runner._stop_on_sigterm", lambda: None)
    with pytest.raises(StepFailed, match=r"^Ray did not start .* during startup: run it again"):
        start_ray(Run())
