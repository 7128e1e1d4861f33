"""Steps that make files, run by more than one driver at once."""

import os
import threading
import time
from io import StringIO

import pytest
import ray
from pydantic import BaseModel
from rich.console import Console

from rasterloom.errors import StepFailed, StorageError
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import FileStep
from rasterloom.pipelines.workspace.status import local_folder, status
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store
from rasterloom.utils import private_folders
from rasterloom.versions.corpus import Corpus


class Nothing(BaseModel):
    pass


def test_two_runs_at_once_make_a_folder_once(tmp_path):
    corpus = Corpus("little", Store(str(tmp_path)))
    made = []

    def make(context):
        folder = context.folder
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

    def make(context):
        folder = context.folder
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
    monkeypatch.setattr("rasterloom.pipelines.execution.ray_cluster.sigterm.heed", lambda: None)
    with pytest.raises(StepFailed, match=r"^Ray did not start .* during startup: run it again"):
        start_ray(Run())


def test_a_step_that_belongs_on_s3_works_in_a_private_folder_and_leaves_none(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    corpus, seen = Corpus("little", Store(f"{s3}/private")), []

    def make(context):
        folder = context.folder
        seen.append((folder, sorted(path.name for path in folder.iterdir())))
        (folder / "notes").write_text("so far")
        if len(seen) == 1:
            raise RuntimeError("cut off")
        return {}

    step = FileStep("thing/1", Nothing(), "1", make=make, resumes=True)
    with pytest.raises(StepFailed, match="cut off"):
        run_step(corpus, step, Run(), "digest", Progress(Console(file=StringIO())))
    run_step(corpus, step, Run(), "digest", Progress(Console(file=StringIO())))
    folder = tmp_path / f"rasterloom-{os.geteuid()}" / "thing-1" / step.fingerprint
    assert seen == [(folder, []), (folder, ["notes"])]  # it went on from what it had left
    assert not folder.exists()
    assert (local_folder(corpus, step) / "notes").read_text() == "so far"


@pytest.mark.parametrize("where", ["in place of its folder", "in its folder"])
def test_a_link_neither_has_a_file_overwritten_nor_uploaded(s3, tmp_path, monkeypatch, where):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("index.html", "id_rsa"):
        (victim / name).write_text("canary")
    corpus = Corpus("little", Store(f"{s3}/{where.replace(' ', '-')}"))

    def make(context):
        folder = context.folder
        (folder / "index.html").write_text("page")
        if where == "in its folder":
            (folder / "more").symlink_to(victim)
        return {}

    step = FileStep("report", Nothing(), "1", make=make)
    if where == "in place of its folder":
        private_folders.private_path("report", step.fingerprint).symlink_to(victim)
    with pytest.raises(StorageError, match="is a link, and is not"):
        run_step(corpus, step, Run(), "digest", Progress(Console(file=StringIO())))
    assert {path.read_text() for path in victim.iterdir()} == {"canary"}
    assert not [name for name in corpus.store.list("") if b"canary" in corpus.store.read(name)]
    assert not status(corpus, step).done
