import sys
from types import ModuleType

import numpy as np
import pytest
from eventfiles import events, pictures, scalars

from rasterloom.recipe.train import Stage, Train
from rasterloom.train.monitoring.trackers import TensorBoard, check_trackers, open_trackers


def test_event_files_say_what_was_noted(tmp_path):
    (tracker,) = open_trackers(["tensorboard"], tmp_path, run="x", settings={})
    tracker.scalars({"train/loss": 2.5, "train/lr": 0.1}, 3)
    tracker.image("samples/a", np.zeros((16, 24, 3), np.uint8), 3)
    tracker.close()
    found = scalars(tmp_path / "events")
    assert found["train/loss", 3] == 2.5 and found["train/lr", 3] == pytest.approx(0.1)
    assert pictures(tmp_path / "events") == {("samples/a", 3): (24, 16)}


def test_a_run_that_goes_on_strikes_out_what_was_lost(tmp_path):
    from tensorboardX.proto.event_pb2 import SessionLog

    tracker = TensorBoard(tmp_path, keep=4)
    tracker.close()
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [5]  # TensorBoard drops what earlier files have from there on


def test_a_run_that_begins_again_strikes_out_all(tmp_path):
    """The first attempt was cut before its first checkpoint."""
    from tensorboardX.proto.event_pb2 import SessionLog

    for attempt in ("first", "second"):
        tracker = TensorBoard(tmp_path, keep=0, suffix=attempt)
        tracker.scalars({"train/loss": 2.0}, 1)
        tracker.close()
    TensorBoard(tmp_path, suffix="images").close()  # beside the run, which goes on
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [0]


def test_a_missing_package_is_reported_with_the_way_out(monkeypatch):
    check_trackers(["tensorboard"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(
        "rasterloom.train.monitoring.trackers.find_spec", lambda name: None if name == "wandb" else object()
    )
    with pytest.raises(
        ValueError, match=r"names wandb, but wandb is not installed: pip install 'rasterloom\[wandb\]', "
    ):
        check_trackers(["tensorboard", "wandb"])


def test_what_wandb_is_given(tmp_path, monkeypatch):
    """Against wandb's own interface as its documentation has it: the package is no part of the tests."""
    said = []

    class Run:
        def define_metric(self, name, **options):
            said.append(("metric", name, options))

        def log(self, values):
            said.append(("log", values))

        def finish(self):
            said.append(("finish",))

    wandb = ModuleType("wandb")
    wandb.__spec__ = object()
    wandb.init = lambda **options: said.append(("init", options)) or Run()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tracker,) = open_trackers(["wandb"], tmp_path / "2-96" / "abc", run="digest", settings={"lr": 1})
    tracker.scalars({"train/loss": 1.0}, 7)
    tracker.close()
    assert said[0][1] | {"project": ""} == {
        "project": "",
        "id": "digest",
        "name": "2-96",
        "dir": str(tmp_path / "2-96" / "abc"),
        "config": {"lr": 1},
        "resume": "allow",
    }
    assert said[-2:] == [("log", {"train/loss": 1.0, "step": 7}), ("finish",)]


def test_watching_is_nobodys_identity():
    stage = Stage(target=64, steps=1)
    plain = Train(stages=(stage,))
    watched = Train(stages=(stage,), trackers=(), log_every=3, evaluate_every=5, sample_every=7)
    assert plain.model_dump() == watched.model_dump()
