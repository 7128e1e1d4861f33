"""What a stage is trained on: parts, tasks, what is held out, and a plan that knows of the row groups."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.recipe.train import Part, Stage, Train
from rasterloom.train.data.collate import is_dropped
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.job import PartFiles, StageJob


def job_of(profile, files, **stage):
    stage = {"target": 64, "epochs": 1, "batch_tokens": 200, **stage}
    one = Stage(**{name: value for name, value in stage.items() if value is not None})
    return StageJob(
        stage=one,
        train=Train(stages=(one,), heldout=0.2),
        profile=profile,
        token_files=tuple(files),
        filesystem=None,
        tokens_snapshot="1",
        init="tiny",
        out_dir="unused",
    )


@pytest.fixture
def with_tasks(write_tokens):
    """A function that writes rows whose tasks alternate."""

    def write(rows, first, tasks):
        path = write_tokens(rows, first=first)
        table = pq.read_table(path)
        names = pa.array([tasks[n % len(tasks)] for n in range(rows)])
        table = table.set_column(table.column_names.index("task"), "task", names)
        pq.write_table(table, path, row_group_size=7)
        return path

    return write


def rows_of(data):
    return data.train[np.concatenate([batch.rows for batch in data.plan.batches()])]


def test_what_is_held_out_is_in_no_batch(write_tokens, profile):
    data = open_stage(job_of(profile, [write_tokens(60)]))
    assert sorted(rows_of(data).tolist()) == data.train.tolist()
    assert 0 < len(data.held) < 30
    assert sorted([*data.train, *data.held]) == list(range(60))


def test_a_mixture_has_its_shares_of_tokens(write_tokens, profile):
    files = [write_tokens(40), write_tokens(30, first=100), write_tokens(300, first=200)]
    parts = (Part(target=64, weight=3), Part(target=96, weight=1))
    job = job_of(profile, files, target=None, mixture=parts, epochs=2)
    job = replace(job, mixture=(PartFiles(2, weight=3.0), PartFiles(1, weight=1.0)))
    data = open_stage(job)
    rows = rows_of(data)
    tokens = data.rows.lengths[rows]
    assert tokens[rows < 70].sum() / tokens.sum() == pytest.approx(0.75, abs=0.02)
    assert (data.part_of == (data.train >= 70)).all()
    came = np.bincount(rows, minlength=370)
    of_first, of_second = came[data.train[data.part_of == 0]], came[data.train[data.part_of == 1]]
    assert of_first.max() - of_first.min() <= 1 and of_first.min() >= 5
    assert of_second.max() <= 1


def test_only_rows_of_the_tasks_asked_for(with_tasks, profile):
    files = [with_tasks(40, 0, ["t2i", "edit"]), with_tasks(40, 100, ["depth", "edit"])]
    parts = (Part(target=64, tasks=["edit"]), Part(target=64))
    job = job_of(profile, files, target=None, mixture=parts)
    job = replace(job, mixture=(PartFiles(1, tasks=("edit",)), PartFiles(1)))
    data = open_stage(job)
    rows = rows_of(data)
    assert sorted(rows.tolist()) == data.train.tolist()  # without weights each once
    assert all(row % 2 for row in rows if row < 40) and len(rows[rows >= 40]) > 25
    assert all(row % 2 for row in data.held if row < 40)
    missing = replace(job, mixture=(PartFiles(1), PartFiles(1, tasks=("t2i", "pose"))))
    with pytest.raises(
        ValueError,
        match=r"mixture\[1\].tasks: no token of target 64 is of t2i, pose; its tasks: depth, edit",
    ):
        open_stage(missing)


def test_the_plan_knows_the_row_groups(write_tokens, profile):
    data = open_stage(job_of(profile, [write_tokens(60)]))
    assert data.plan.groups.tolist() == [row // 7 for row in data.train]


def test_what_is_trained_is_distinguished_from_the_digest(write_tokens, profile):
    job = job_of(profile, [write_tokens(20), write_tokens(20, first=50)])
    one = replace(job, mixture=(PartFiles(1, weight=1.0), PartFiles(1, weight=2.0)))
    other = replace(job, mixture=(PartFiles(1, weight=1.0), PartFiles(1, weight=3.0)))
    assert len({job.digest(), one.digest(), other.digest()}) == 3
    indexed = replace(one, mixture=(PartFiles(1, "a", 1.0), PartFiles(1, "b", 2.0)))
    assert indexed.digest() == one.digest()  # how the rows are found is not which they are
    slow = replace(job, train=job.train.model_copy(update={"micro_batch_tokens": 99, "checkpoint_every": 9}))
    assert slow.digest() == job.digest()


FAR = 4.5  # standard errors


def drops(data, train):
    """Of each row by its number: whether its prompt is dropped, each time that it comes."""
    found = defaultdict(list)
    for batch in data.plan.batches():
        for planned, a_pass in zip(batch.rows.tolist(), batch.passes.tolist(), strict=True):
            row, part = int(data.train[planned]), int(data.part_of[planned])
            key = data.rows.keys[row].as_py()
            found[row].append(is_dropped(key, train, part=part, a_pass=a_pass))
    return found


def staged(profile, files, stages, number, **fields):
    """The data of a stage of several, and its section."""
    train = Train(stages=stages, heldout=0.0, **fields).of_stage(number)
    mixture = stages[number].mixture
    parts = tuple(PartFiles(1, weight=part.weight) for part in mixture) if mixture else ()
    job = replace(job_of(profile, files), stage=stages[number], train=train, mixture=parts)
    return open_stage(job), train


def test_a_second_stage_on_the_same_rows_draws_anew(write_tokens, profile):
    """Two halves of an epoch, as for a second stage at a lower rate."""
    stages = tuple(Stage(target=64, epochs=0.5, batch_tokens=400, lr=lr) for lr in (1e-3, 1e-4))
    files = [write_tokens(600)]
    (first, train_1), (second, train_2) = (staged(profile, files, stages, n, cfg_drop=0.5) for n in (0, 1))
    a, b = rows_of(first).tolist(), rows_of(second).tolist()
    assert a != b and set(a) != set(b)
    share = len(set(a) & set(b)) / len(a)  # of one half, half is in the other
    assert abs(share - len(b) / 600) < FAR * math.sqrt(0.25 / len(a))
    assert rows_of(staged(profile, files, stages, 1)[0]).tolist() == b
    both = set(a) & set(b)
    of_a, of_b = drops(first, train_1), drops(second, train_2)
    alike = np.mean([of_a[row] == of_b[row] for row in both])
    assert abs(alike - 0.5) < FAR * math.sqrt(0.25 / len(both))


def test_a_prompt_is_drawn_anew_in_each_epoch_and_stage(write_tokens, profile):
    files = [write_tokens(2000)]
    stages = tuple(Stage(target=target, epochs=2, batch_tokens=4000) for target in (64, 96, 128))
    found = [staged(profile, files, stages, number, cfg_drop=0.1) for number in range(3)]
    draws = np.array([[d[row] for row in range(2000)] for d in (drops(*one) for one in found)])
    assert draws.shape == (3, 2000, 2)
    assert abs(draws.mean() - 0.1) < FAR * math.sqrt(0.09 / draws.size)
    columns = draws.transpose(0, 2, 1).reshape(6, 2000)
    for one in range(6):
        for other in range(one):
            both = (columns[one] & columns[other]).mean()
            assert abs(both - 0.01) < FAR * math.sqrt(0.01 * 0.99 / 2000)


def test_a_small_part_loses_its_prompts_by_a_new_draw_each_time(write_tokens, profile):
    """40 rows that come 25 times an epoch: none has its prompt always, or never."""
    files = [write_tokens(2000), write_tokens(40, first=5000)]
    stage = Stage(mixture=(Part(target=64, weight=1), Part(target=64, weight=1)), epochs=1, batch_tokens=4000)
    data, train = staged(profile, files, (stage,), 0, cfg_drop=0.1)
    found = drops(data, train)
    few = [found[row] for row in range(2000, 2040)]
    assert min(map(len, few)) >= 20
    times = sum(map(len, few))
    assert abs(sum(map(sum, few)) / times - 0.1) < FAR * math.sqrt(0.09 / times)
    assert not any(all(draws) for draws in few)
    never = sum(not any(draws) for draws in few)  # of 25 draws of 0.1: 7 in 100
    expected = np.mean([0.9 ** len(draws) for draws in few])
    assert never / 40 < expected + FAR * math.sqrt(expected * (1 - expected) / 40)


def test_one_image_in_two_parts_has_two_draws(write_tokens, profile):
    """The same keys at two targets of a mixture."""
    files = [write_tokens(2000), write_tokens(2000)]
    stage = Stage(mixture=(Part(target=64), Part(target=96)), epochs=1, batch_tokens=4000)
    data, train = staged(profile, files, (stage,), 0, cfg_drop=0.5)
    found = drops(data, train)
    alike = np.mean([found[row] == found[2000 + row] for row in range(2000)])
    assert abs(alike - 0.5) < FAR * math.sqrt(0.25 / 2000)
