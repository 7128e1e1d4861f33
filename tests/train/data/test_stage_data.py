"""What a stage is trained on: parts, tasks, what is held out, and a plan that knows of the row groups."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.recipe.train import Part, Stage, Train
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


def test_what_is_trained_is_told_from_the_digest(write_tokens, profile):
    job = job_of(profile, [write_tokens(20), write_tokens(20, first=50)])
    one = replace(job, mixture=(PartFiles(1, weight=1.0), PartFiles(1, weight=2.0)))
    other = replace(job, mixture=(PartFiles(1, weight=1.0), PartFiles(1, weight=3.0)))
    assert len({job.digest(), one.digest(), other.digest()}) == 3
    indexed = replace(one, mixture=(PartFiles(1, "a", 1.0), PartFiles(1, "b", 2.0)))
    assert indexed.digest() == one.digest()  # how the rows are found is not which they are
    slow = replace(job, train=job.train.model_copy(update={"micro_batch_tokens": 99, "checkpoint_every": 9}))
    assert slow.digest() == job.digest()
