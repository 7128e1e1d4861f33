"""Stages that are cut off and taken up by as many ranks as there are."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import ranks
import torch
from plain_loop import plain_loop
from safetensors.torch import load_file

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Guard, Stage, Train
from rasterloom.storage.store import Store
from rasterloom.train.checkpoint.saver import Position, complete, latest, prune
from rasterloom.train.job import finished
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.ray_trainer import _fetch_output


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=8, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, cfg_drop=0.0, dropout=0.0, checkpoint_every=3)
    return new_job(stage, train, rows=50)


def changed(job, **changes):
    return replace(job, train=job.train.model_copy(update=changes))


def losses(job):
    return [record["loss"] for record in read_metrics(job.metrics_file)]


@pytest.mark.parametrize(
    ("zero", "bf16"), [(0, False), (1, False), (2, False), (3, False), (1, True), (3, True)]
)
def test_other_numbers_of_ranks_go_on_as_if_nothing_had_happened(job, zero, bf16):
    """2 ranks, then 3, 2 and 1: the losses are those of a plain loop."""
    job = changed(job, deepspeed=DeepSpeed(zero=zero, bf16=bf16))
    for world in (2, 3, 2):
        assert ranks.train(job, world, stop_at=2) == "stopped"
    assert ranks.train(job, 1) == "done"
    assert [r["step"] for r in read_metrics(job.metrics_file)] == list(range(1, 9))
    assert losses(job) == pytest.approx(plain_loop(job)[0], abs=2e-2 if bf16 else 2e-5)
    assert len(list((job.folder / "checkpoints").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("zero", "model", "frozen"),
    [(2, Model(lora=Lora(rank=2, vocabulary=True)), ()), (3, Model(), ("embeddings", "norms"))],
)
def test_what_is_frozen_stays_so_with_another_number_of_ranks(job, tmp_path, zero, model, frozen):
    job = changed(job, deepspeed=DeepSpeed(zero=zero), model=model)
    job = replace(job, stage=job.stage.model_copy(update={"freeze": frozen, "steps": 4}))
    whole = replace(job, out_dir=str(tmp_path / "whole"))
    ranks.train(whole, 1)
    assert ranks.train(job, 2, stop_at=2) == "stopped"
    assert ranks.train(job, 3) == "done"
    assert losses(job) == pytest.approx(losses(whole), abs=2e-5)
    ours, expected = (load_file(one.model_dir / "model.safetensors") for one in (job, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


CPU = {"offload": "cpu"}


@pytest.mark.parametrize(
    ("settings", "bf16"),
    [
        ([{"zero": 2}, {"zero": 3}, {"zero": 0}, {"zero": 1}], False),
        ([{"zero": 0}, {"zero": 3}, {"zero": 2}, {"zero": 0}], False),
        ([{"zero": 2}, {"zero": 2, **CPU}, {"zero": 3, **CPU}, {"zero": 3}], False),
        ([{"zero": 1}, {"zero": 2}, {"zero": 3}, {"zero": 1}], True),
    ],
)
def test_a_stage_goes_on_with_another_zero_stage_or_offload(job, settings, bf16):
    """As if nothing had happened, at the same number of ranks and at others."""
    for one, world in zip(settings[:-1], (2, 2, 1), strict=True):
        job = changed(job, deepspeed=DeepSpeed(**one, bf16=bf16))
        assert ranks.train(job, world, stop_at=2) == "stopped"
    job = changed(job, deepspeed=DeepSpeed(**settings[-1], bf16=bf16))
    assert ranks.train(job, 2) == "done"
    assert [r["step"] for r in read_metrics(job.metrics_file)] == list(range(1, 9))
    assert losses(job) == pytest.approx(plain_loop(job)[0], abs=2e-2 if bf16 else 2e-5)


@pytest.mark.parametrize(
    ("first", "then", "optimizer"),
    [
        (0, 2, "adamw"),
        (2, 3, "adamw"),
        (3, 0, "adamw"),
        (3, 1, "adamw"),
        (0, 1, "muon"),
        (1, 0, "muon"),
    ],
)
def test_a_checkpoint_of_no_step_goes_on_with_another_zero_stage(job, tmp_path, first, then, optimizer):
    """That of a guard that rolls back: its optimizer has no state yet."""
    job = changed(job, guard=Guard(on="rollback"), optimizer=optimizer)
    job = replace(job, stage=job.stage.model_copy(update={"steps": 3}))
    whole = changed(replace(job, out_dir=str(tmp_path / "whole")), deepspeed=DeepSpeed(zero=then))
    ranks.train(whole, 2)
    with pytest.raises(RuntimeError):
        ranks.train(changed(job, deepspeed=DeepSpeed(zero=first)), 2, die_at=1)
    assert ranks.train(changed(job, deepspeed=DeepSpeed(zero=then)), 2) == "done"
    assert losses(job) == pytest.approx(losses(whole), rel=3e-3 if optimizer == "muon" else 1e-5)


def test_a_checkpoint_of_no_step_of_zero_3_goes_on_with_another_number_of_ranks(job, tmp_path):
    job = changed(job, guard=Guard(on="rollback"), deepspeed=DeepSpeed(zero=3))
    job = replace(job, stage=job.stage.model_copy(update={"steps": 3}))
    whole = replace(job, out_dir=str(tmp_path / "whole"))
    ranks.train(whole, 2)
    with pytest.raises(RuntimeError):
        ranks.train(job, 2, die_at=1)
    assert latest(job.checkpoint_store, job.digest()).position.step == 0
    assert ranks.train(job, 1) == "done"
    assert losses(job) == pytest.approx(losses(whole), rel=1e-5)


def test_what_is_frozen_or_adapted_goes_on_with_another_zero_stage(job, tmp_path):
    model, frozen = Model(lora=Lora(rank=2, vocabulary=True)), ("norms",)
    job = replace(
        changed(job, model=model), stage=job.stage.model_copy(update={"freeze": frozen, "steps": 6})
    )
    whole = replace(job, out_dir=str(tmp_path / "whole"))
    ranks.train(whole, 1)
    for zero, world in ((0, 2), (3, 1), (2, 1)):
        job = changed(job, deepspeed=DeepSpeed(zero=zero))
        ranks.train(job, world, stop_at=2)
    assert losses(job) == pytest.approx(losses(whole), abs=2e-5)
    ours, expected = (load_file(one.model_dir / "model.safetensors") for one in (job, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_kept_optimizer_goes_on_in_a_stage_of_another_zero_stage(job, tmp_path):
    ranks.train(changed(job, deepspeed=DeepSpeed(zero=2)), 2)
    more = {"init": str(job.model_dir), "keep_optimizer_from": job.out_dir}
    same, other = (
        replace(changed(job, deepspeed=DeepSpeed(zero=zero)), out_dir=str(tmp_path / f"zero-{zero}"), **more)
        for zero in (2, 3)
    )
    ranks.train(same, 2, stop_at=3)
    ranks.train(other, 2, stop_at=3)
    assert losses(other) == pytest.approx(losses(same), abs=2e-5)


@pytest.mark.parametrize(
    ("first", "then", "last"),
    [
        ((2, 1), (2, 1), (0, 1)),
        ((0, 1), (2, 1), (2, 1)),
        ((2, 1), (0, 1), (3, 1)),
        ((3, 1), (3, 2), (3, 1)),
        ((2, 2), (2, 1), (2, 2)),
        ((1, 2), (1, 1), (1, 1)),
    ],
)
def test_kept_adapters_go_on_from_their_own_base(job, tmp_path, first, then, last):
    """Whatever ZeRO stages and ranks there were before, and before a cut: the stage before is in it once."""
    lora = Lora(rank=2, alpha=4, vocabulary=True)
    job = changed(job, model=Model(lora=lora), deepspeed=DeepSpeed(zero=first[0]))
    job = replace(job, stage=job.stage.model_copy(update={"steps": 3}))
    ranks.train(job, first[1])
    more = {"init": str(job.model_dir), "keep_optimizer_from": job.out_dir, "out_dir": str(tmp_path / "kept")}
    kept = replace(job, **more)
    ranks.train(changed(kept, deepspeed=DeepSpeed(zero=then[0])), then[1], stop_at=2)
    ranks.train(changed(kept, deepspeed=DeepSpeed(zero=last[0])), last[1])
    adapter = kept.model_dir / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == job.init
    base, model = load_file(f"{job.init}/model.safetensors"), load_file(kept.model_dir / "model.safetensors")
    update = load_file(adapter / "adapter_model.safetensors")
    adapted = 0
    for name, weight in model.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in update:
            change = update[f"{stem}.lora_B.weight"] @ update[f"{stem}.lora_A.weight"]
            torch.testing.assert_close(weight, base[name] + lora.alpha / lora.rank * change, msg=name)
            adapted += 1
    assert adapted


def test_a_rank_that_dies_is_made_good(job):
    """Also with dropout: the same number of ranks goes on with their random states."""
    job = changed(job, dropout=0.2)
    whole = replace(job, out_dir=f"{job.out_dir}-whole")
    ranks.train(whole, 2)
    with pytest.raises(RuntimeError):
        ranks.train(job, 2, die_at=6)
    assert len(losses(job)) == 5
    assert ranks.train(job, 2) == "done"
    assert losses(job) == pytest.approx(losses(whole), abs=1e-5)


def test_ranks_that_are_new_have_a_seeded_random_state(job, tmp_path):
    job = changed(job, dropout=0.2)
    ranks.train(job, 1, stop_at=4)
    twin = replace(job, out_dir=str(tmp_path / "twin"))
    shutil.copytree(job.out_dir, twin.out_dir)
    ranks.train(job, 2)
    ranks.train(twin, 2)
    assert losses(job) == losses(twin)


def test_the_optimizer_of_the_stage_before_goes_on(job, tmp_path):
    ranks.train(job, 2)
    kept = replace(
        job, init=str(job.model_dir), out_dir=str(tmp_path / "kept"), keep_optimizer_from=job.out_dir
    )
    reset = replace(kept, out_dir=str(tmp_path / "reset"), keep_optimizer_from=None)
    ranks.train(kept, 3, stop_at=2)
    ranks.train(reset, 1, stop_at=2)
    assert losses(kept)[0] == pytest.approx(losses(reset)[0], abs=2e-5)  # the same weights
    assert losses(kept)[1] != pytest.approx(losses(reset)[1], abs=1e-3)
    folder = latest(kept.checkpoint_store, kept.digest()).name
    (file,) = (kept.folder / "checkpoints" / folder).rglob("*rank_0_*optim_states.pt")
    state = torch.load(file, weights_only=False)["optimizer_state_dict"]["base_optimizer_state"]
    assert {int(s["step"]) for s in state["state"].values()} == {8 + 2}
    with pytest.raises(RuntimeError, match="optimizer_state: keep: there is no checkpoint in"):
        ranks.train(replace(kept, keep_optimizer_from=str(tmp_path), out_dir=str(tmp_path / "lost")), 1)


def test_checkpoints_on_s3(job, s3, tmp_path):
    """Each run is on another machine: nothing of its folder is there but what S3 has."""
    place = f"{s3}/{tmp_path.name}/stage"
    here, there, last = (
        replace(job, checkpoints=f"{place}/checkpoints", out_dir=str(tmp_path / name))
        for name in ("here", "there", "last")
    )
    store = here.checkpoint_store
    assert ranks.train(here, 2, stop_at=7) == "stopped"
    assert {name.split("/")[0][:13] for name in store.list("")} == {"step-00000006", "step-00000007"}
    # The newest loses a file: it is as if it had never been written.
    newest = latest(store, here.digest())
    assert newest.position.step == 7
    store.delete(f"{newest.name}/random-1.pt")
    assert latest(store, here.digest()).position.step == 6
    shutil.rmtree(here.folder)
    assert ranks.train(there, 3) == "done"
    assert losses(there) == pytest.approx(plain_loop(job)[0], abs=2e-5)
    assert not list(there.folder.glob("scratch-*/*/*"))
    # The driver's machine.
    last.folder.mkdir()
    _fetch_output(last)
    assert finished(last) is not None
    assert (last.model_dir / "config.json").exists()
    assert losses(last) == losses(there)


def test_machines_that_share_a_folder_convert_once(job, tmp_path):
    """Leftovers of a killed attempt go, and nothing stays of the new conversion."""
    job = changed(job, deepspeed=DeepSpeed(zero=2))
    assert ranks.train(job, 1, stop_at=2) == "stopped"
    left = job.folder / "scratch/converted-of-old/state/tmp"
    left.mkdir(parents=True)
    converts = tmp_path / "converts"
    assert ranks.train(job, 2, apart=True, converts=converts) == "done"
    assert converts.read_text().split() == ["0"]
    assert list((job.folder / "scratch").iterdir()) == []
    assert losses(job) == pytest.approx(plain_loop(job)[0], abs=2e-5)


def test_machines_that_share_none_convert_each(job, s3, tmp_path):
    job = replace(changed(job, deepspeed=DeepSpeed(zero=2)), checkpoints=f"{s3}/{tmp_path.name}/stage")
    assert ranks.train(job, 1, stop_at=2) == "stopped"
    converts = tmp_path / "converts"
    assert ranks.train(job, 2, apart=True, converts=converts) == "done"
    assert sorted(converts.read_text().split()) == ["0", "1"]
    assert not list(job.folder.glob("scratch-*/*/*"))
    assert losses(job) == pytest.approx(plain_loop(job)[0], abs=2e-5)


def test_a_kill_while_a_checkpoint_is_written_behind_leaves_the_one_before(job, tmp_path):
    """That of step 6 is half there; new ranks go on from that of step 3 as if nothing had happened."""
    job = changed(job, deepspeed=DeepSpeed(zero=3), dropout=0.2)
    whole = replace(job, out_dir=str(tmp_path / "whole"))
    ranks.train(whole, 2)
    with pytest.raises(RuntimeError):
        ranks.train(job, 2, die_writing=2)
    store = job.checkpoint_store
    assert latest(store, job.digest()).position.step == 3
    assert any(name.startswith("step-00000006-") for name in store.list(""))
    assert ranks.train(job, 2, behind=True) == "done"
    assert losses(job) == pytest.approx(losses(whole), abs=1e-5)
    assert [one.position.step for one in complete(store, job.digest())] == [8, 6]


def checkpoint_by_hand(store, step, job="mine"):
    """A complete checkpoint of one file of four bytes."""
    folder = f"step-{step:08d}-a"
    position = Position(job, "1", world_size=2, step=step, tokens=0, seconds=0.0)
    record = {"position": asdict(position), "folder": folder, "files": {"state/x": 4}}
    store.put(f"{folder}/state/x", b"four")
    store.put(f"step-{step:08d}.json", json.dumps(record).encode())
    return f"{folder}/state/x"


@pytest.mark.parametrize("harm", ["gone", "short", "empty"])
def test_a_checkpoint_is_used_only_if_all_its_files_are_there_at_their_sizes(tmp_path, harm):
    store = Store(str(tmp_path))
    checkpoint_by_hand(store, 9)
    file = checkpoint_by_hand(store, 12)
    assert latest(store, "mine").position.step == 12
    store.delete(file)
    if harm != "gone":
        store.put(file, b"fo" if harm == "short" else b"")
    assert [one.position.step for one in complete(store, "mine")] == [9]
    assert latest(store, "mine").position.step == 9


def test_a_checkpoint_of_another_job_is_refused_and_not_passed_over(tmp_path):
    store = Store(str(tmp_path))
    checkpoint_by_hand(store, 9)
    checkpoint_by_hand(store, 12, job="other")
    with pytest.raises(
        ValueError, match="are of a stage with other settings or other data, or of an earlier"
    ):
        latest(store, "mine")
    assert latest(store, None).position.job == "other"


def test_what_lost_attempts_left_is_deleted(tmp_path):
    store = Store(str(tmp_path))
    for step in (1, 2, 3):
        checkpoint_by_hand(store, step)
    store.delete(checkpoint_by_hand(store, 7))
    store.put("step-00000004-b/state/half", b"x")
    store.put("output/model/config.json", b"{}")
    prune(store, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "output",
        "step-00000002-a",
        "step-00000002.json",
        "step-00000003-a",
        "step-00000003.json",
    ]


@pytest.mark.parametrize(("zero", "zero_before"), [(2, 2), (3, 3), (0, 2)])
def test_a_rollback_to_other_ranks_start_forgets_the_steps_since(job, tmp_path, zero, zero_before):
    """The checkpoint of step 0 has no counters of steps, and nothing would be loaded in their place."""
    changes = {"deepspeed": DeepSpeed(zero=zero), "guard": Guard(on="rollback"), "checkpoint_every": 50}
    job = changed(job, **changes)
    whole = replace(job, out_dir=str(tmp_path / "whole"))
    ranks.train(whole, 1, poison=(3,))
    with pytest.raises(RuntimeError):
        ranks.train(changed(job, deepspeed=DeepSpeed(zero=zero_before)), 2, die_at=1)
    assert ranks.train(job, 1, poison=(3,)) == "done"
    assert losses(job)[2] is None
    assert losses(job)[3:] == pytest.approx(losses(whole)[3:], abs=2e-5)
    ours, expected = (load_file(one.model_dir / "model.safetensors") for one in (job, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
