"""Identity of stages: what makes one anew, and what does not."""

import json
import shutil
from dataclasses import replace

import pytest

from rasterloom.pipelines.step import FinishedStep, changes
from rasterloom.pipelines.training.stage_step import CODE_VERSION, TrainAt, _identity, stage_step
from rasterloom.pipelines.workspace.status import status, write_record
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.train import DeepSpeed, Guard, Stage, Train
from rasterloom.storage.store import Store
from rasterloom.tokenize.profiles import profile_of
from rasterloom.train.job import StageJob
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

STAGES = [{"target": 64, "steps": 8}, {"target": 64, "steps": 8}]


def settings(train, number=0):
    """Settings and identity of a stage, as its fingerprint has them."""
    given = Train.model_validate({"stages": STAGES, **train})
    recipe = Recipe.model_validate({"corpus": "c", "sources": [{"path": "x"}], "train": given})
    one = given.of_stage(number)
    config = TrainAt(stage=one.stages[0], train=one, tokenize=recipe.tokenize, sources=())
    return {**json.loads(config.model_dump_json()), **_identity(given, None)}


def digest(train, profile, number=0):
    given = Train.model_validate({"stages": STAGES, **train})
    one = given.of_stage(number)
    more = {"tokens_snapshot": "1", "init": "tiny", "out_dir": "unused"}
    return StageJob(one.stages[0], one, profile, ("a.parquet",), None, **more).digest()


def with_stage(**fields):
    return {"stages": [{**STAGES[0], **fields}, STAGES[1]]}


@pytest.fixture
def profile():
    return profile_of("mini", 300)


@pytest.mark.parametrize(
    "change",
    [
        {"guard": {"on": "skip"}},
        {"guard": {"on": "rollback", "factor": 3, "window": 20, "limit": 2}},
        {"deepspeed": {"zero": 3}},
        {"deepspeed": {"zero": 0}},
        {"deepspeed": {"offload": "cpu"}},
        with_stage(deepspeed={"zero": 3, "offload": "cpu"}),
        with_stage(guard={"on": "skip"}),
        {"checkpoint_every": 7, "micro_batch_tokens": 500, "model": {"remat": "full"}},
    ],
)
def test_what_changes_no_result_is_no_part_of_a_stage(change, profile):
    assert settings(change) == settings({})
    assert digest(change, profile) == digest({}, profile)


@pytest.mark.parametrize(
    "change",
    [
        {"deepspeed": {"bf16": True}},
        {"deepspeed": {"extra": {"zero_optimization": {"round_robin_gradients": True}}}},
        with_stage(deepspeed={"bf16": True}),
        with_stage(lr=1e-3),
        with_stage(cfg_drop=0.5),
        {"seed": 1},
        {"grad_clip": 1.0},
        {"optimizer": "muon", "deepspeed": {"zero": 0}},
    ],
)
def test_what_changes_a_result_is_part_of_a_stage(change, profile):
    assert settings(change) != settings({})
    assert digest(change, profile) != digest({}, profile)


def test_a_stage_sets_fields_of_deepspeed_and_guard_for_itself():
    train = Train(
        stages=(
            Stage(target=64, steps=1),
            Stage(target=64, steps=1, deepspeed={"zero": 3}, guard={"on": "skip"}),
        ),
        deepspeed=DeepSpeed(zero=1, bf16=True),
        guard=Guard(factor=4.0),
    )
    assert (train.of_stage(0).deepspeed, train.of_stage(0).guard) == (train.deepspeed, train.guard)
    assert train.of_stage(1).deepspeed == DeepSpeed(zero=3, bf16=True)
    assert train.of_stage(1).guard == Guard(on="skip", factor=4.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"deepspeed": {"bf16": True}, "stages": [{"target": 64, "steps": 1, "deepspeed": {"zero": 0}}]},
            "bf16",
        ),
        ({"optimizer": "muon", "deepspeed": {"zero": 0}, **with_stage(deepspeed={"zero": 3})}, "muon"),
        ({"model": {"compile": True}, **with_stage(deepspeed={"zero": 3})}, "compile"),
    ],
)
def test_settings_of_a_stage_are_checked_with_those_of_all(fields, message):
    with pytest.raises(ValueError, match=message):
        Train.model_validate({"stages": STAGES, **fields})


def test_equal_stages_of_a_recipe_are_not_one(profile):
    """They draw their order and their dropped prompts from streams of their own."""
    assert digest({}, profile, 0) != digest({}, profile, 1)
    assert CODE_VERSION == "4"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that looks like a checkpoint, and private folders below tmp_path."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "chameleon", "_name_or_path": "/here"}))
    (folder / "model.safetensors").write_bytes(b"one")
    return folder


def test_initial_weights_are_known_by_their_content(weights, tmp_path):
    before = settings({"init": str(weights)})
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(weights, elsewhere)
    (elsewhere / "config.json").write_text('{"_name_or_path": "/there", "model_type": "chameleon"}')
    assert settings({"init": str(elsewhere)}) == before
    (weights / "model.safetensors").write_bytes(b"two")
    after = settings({"init": str(weights)})
    assert changes(before, after) == [f"init {before['init']} -> {after['init']}"]
    (elsewhere / "config.json").write_text('{"model_type": "chameleon", "rope_theta": 2}')
    assert settings({"init": str(elsewhere)}) != before
    assert settings({"init": "tiny"}) != before


def test_weights_that_are_gone_count_as_what_they_were(weights):
    """A finished stage can be sampled from when the weights that it started from are deleted."""
    before = settings({"init": str(weights)})
    shutil.rmtree(weights)
    assert settings({"init": str(weights)}) == before
    assert settings({"init": f"{weights}-of-nobody"})["init"] == "unreadable"


def test_plan_names_what_retrains_and_what_does_not(tmp_path):
    """A finished stage whose guard, ZeRO and learning rate are changed, one after the other."""

    def planned(**fields):
        given = Train.model_validate({"stages": [{**STAGES[0], **fields.pop("stage", {})}], **fields})
        tokens = {name: made(name) for name in ("tokens/64", "text", "lengths/64")}
        workspace = {"corpus": "c", "sources": [{"path": "x"}], "workspace": str(tmp_path)}
        tokenize = {"tokenize": {"targets": [64]}}
        return stage_step(Recipe.model_validate({**workspace, **tokenize, "train": given}), 0, tokens, None)

    corpus = Corpus("c", Store(str(tmp_path)))
    first = planned()
    inputs = {given.name: given.fingerprint for given in first.inputs}
    record = Record(first.name, first.fingerprint, CODE_VERSION, first.settings, inputs)
    write_record(corpus, replace(record, other_settings=first.other_settings))
    assert status(corpus, first).reason == "done"
    changed = status(corpus, planned(guard={"on": "skip"}, deepspeed={"zero": 3}))
    assert changed.done
    assert changed.reason == (
        "done; changed without effect on it: train.deepspeed.zero 2 -> 3, train.guard.on stop -> skip"
    )
    changed = status(corpus, planned(guard={"on": "skip"}, stage={"lr": 1e-3}))
    assert not changed.done
    assert changed.reason.startswith("config changed: train.stage.lr 2e-05 -> 0.001")
    older = replace(record, code_version="2", fingerprint="old", config={"train": {"init": "/a"}})
    write_record(corpus, older)
    corpus.store.delete(corpus.layout.record(first.name, first.fingerprint))
    assert status(corpus, first).reason == "code changed: version 2 -> 4"


def test_adapters_that_go_on_have_a_code_version_of_their_own():
    """They name another base than before; other stages are not trained again for it."""

    def version(lora, keep):
        stage = {**STAGES[0], "optimizer_state": keep}
        given = Train.model_validate({"stages": [STAGES[0], stage], "model": {"lora": lora}})
        tokens = {name: made(name) for name in ("tokens/64", "text", "lengths/64")}
        workspace = {"corpus": "c", "sources": [{"path": "x"}], "tokenize": {"targets": [64]}}
        recipe = Recipe.model_validate({**workspace, "train": given})
        return stage_step(recipe, 1, tokens, None).code_version

    assert version({"rank": 2}, "keep") == f"{CODE_VERSION}.2"
    assert version({"rank": 2}, "reset") == version(None, "keep") == CODE_VERSION


def made(name):
    return FinishedStep(Record(name, f"of-{name.replace('/', '-')}", "1", {}, {}))
