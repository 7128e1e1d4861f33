"""Faults of training that were found, and mended: each test says what is right."""

import dataclasses

import pytest
from drawn_recipes import Cut, jobs, simple, write_checkpoint, write_table
from oracle_check import check, fed_to, run

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Guard, Part, Stage, Train
from rasterloom.train.data.collate import is_dropped
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.monitoring.metrics_log import read_metrics

FIXED = {"heldout": 0.0, "dropout": 0.0, "trackers": ()}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    return write_checkpoint(folder / "init"), [write_table(folder, 0, 26), write_table(folder, 1, 200)]


def stage_of(**fields):
    return Stage(**{"target": 64, "steps": 2, "lr": 5e-3, "warmup_steps": 0, "batch_tokens": 200, **fields})


def halves(ground, tmp_path, **fields):
    """The jobs of two stages of half an epoch each on the larger table."""
    stages = (stage_of(steps=None, epochs=0.5), stage_of(steps=None, epochs=0.5))
    drawn = simple(Train(stages=stages, **FIXED, **fields), tables=(1,))
    return jobs(drawn, tmp_path, *ground)


def test_a_kept_optimizer_decays_by_the_recipe(tmp_path, ground):
    stages = (stage_of(weight_decay=1.0), stage_of(weight_decay=0.0, optimizer_state="keep"))
    check(simple(Train(stages=stages, **FIXED)), tmp_path, ground)


def test_a_kept_adapter_on_the_base_that_it_names_is_the_model(tmp_path, ground):
    stages = (stage_of(), stage_of(optimizer_state="keep"))
    check(simple(Train(stages=stages, model=Model(lora=Lora(rank=2)), **FIXED)), tmp_path, ground)


def test_a_second_stage_draws_its_own_order(tmp_path, ground):
    first, second = (
        [n for batch in open_stage(job).plan.batches() for n in batch.rows.tolist()]
        for job in halves(ground, tmp_path)
    )
    assert first != second
    assert len(set(first) & set(second)) < 0.8 * len(first)  # about half, if the draws are independent


def test_prompts_are_dropped_anew_in_each_stage(tmp_path, ground):
    keys = [f"1/{number}" for number in range(1000)]
    first, second = (
        {key for key in keys if is_dropped(key, job.train, part=0, a_pass=0)}
        for job in halves(ground, tmp_path, cfg_drop=0.3)
    )
    assert 50 < len(first & second) < 140  # 90 of 1,000, if the draws are independent; 300 of one draw


def test_prompts_are_dropped_anew_each_time_a_row_comes(tmp_path, ground):
    mixture = (Part(target=64, weight=1), Part(target=64, weight=1))
    stage = stage_of(target=None, mixture=mixture, steps=None, epochs=1.0, batch_tokens=600)
    drawn = simple(Train(stages=(stage,), cfg_drop=0.5, **FIXED), tables=(0, 1))
    (job,) = jobs(drawn, tmp_path, *ground)
    run(job, drawn.runs[0], tmp_path / "seen")
    times: dict[tuple, set] = {}
    for (of_rank,) in fed_to(tmp_path / "seen")[0]:
        for ids in (ids for part in of_rank for ids in part):
            if job.profile.boi in ids:
                image = tuple(ids[ids.index(job.profile.boi) : ids.index(job.profile.eoi)])
                times.setdefault(image, set()).add(ids[0] == job.profile.boi)
    assert len([image for image, ways in times.items() if len(ways) == 2]) >= 5


def test_guard_and_zero_do_not_retrain(tmp_path, ground):
    job = halves(ground, tmp_path)[0]
    for change in ({"guard": Guard(on="skip")}, {"deepspeed": DeepSpeed(zero=3)}):
        other = dataclasses.replace(job, train=job.train.model_copy(update=change))
        assert other.digest() == job.digest()


def test_a_summary_after_a_cut_tells_of_all_steps_since_the_last(tmp_path, ground):
    train = Train(stages=(stage_of(steps=4),), log_every=4, **FIXED)
    drawn = simple(train, worlds=(1, 1), cuts=(Cut(2, dies=False),))
    (job,) = jobs(drawn, tmp_path, *ground)
    run(job, drawn.runs[0], tmp_path / "seen")
    records = read_metrics(job.metrics_file)
    assert records[-1]["all"]["tokens"] == sum(record["loss_tokens"] for record in records)


def test_after_a_death_a_stage_goes_on_from_before_a_step_that_was_refused(tmp_path, ground):
    train = Train(stages=(stage_of(steps=6),), checkpoint_every=2, guard=Guard(on="skip"), **FIXED)
    drawn = simple(train, worlds=(1, 1), cuts=(Cut(4, dies=True),), poison=(4,))
    (job,) = jobs(drawn, tmp_path, *ground)
    starts, _ = run(job, drawn.runs[0], tmp_path / "seen")
    assert starts == [0, 2]  # the checkpoint of step 4 waits for step 5
