"""Data of a stage: rows to train on, held-out rows, global batches.

Nothing here needs torch: the driver opens a stage's data to check it before any worker is started.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem

from rasterloom.recipe.captions import ALT
from rasterloom.train.data.collate import heldout_draw
from rasterloom.train.data.stage_plan import BatchSize, Mixture, StageLength, StagePlan, stage_plan
from rasterloom.train.data.token_dataset import CAPTIONS, TokenRows, joined, open_rows
from rasterloom.train.job import StageJob


@dataclass(frozen=True)
class StageData:
    """Rows and plan of a stage."""

    rows: TokenRows
    train: NDArray[np.int64]
    """Numbers of the rows to train on; the plan numbers these from 0."""
    held: NDArray[np.int64]
    """Numbers of the rows held out."""
    plan: StagePlan
    part_of: NDArray[np.int64]
    """Of each row of ``train``, the number of its part of the stage."""


def open_stage(job: StageJob) -> StageData:
    """Open the token files of a job and plan its batches.

    Raises:
        FileNotFoundError: a token file is missing.
        ValueError: the stage, or a part of its mixture, has no rows to train on, or one is longer than a
            batch.
    """
    parts = job.parts
    opened, first = [], 0
    for part in parts:
        files = job.token_files[first : first + part.files]
        opened.append(open_rows(files, job.filesystem, part.index, job.train.captions))
        first += part.files
    _check_captions(job)
    starts = np.cumsum([0, *(len(rows.lengths) for rows in opened)])
    rows = joined(opened)
    train, held = split_heldout(rows, job.train.heldout)
    wanted = np.ones(len(rows.lengths), dtype=bool)
    for number, part in enumerate(parts):
        if part.tasks:
            wanted[starts[number] : starts[number + 1]] = _of_tasks(opened[number], part.tasks, number, job)
    train, held = train[wanted[train]], held[wanted[held]]
    _check_longest(rows, train, job)
    part_of = np.searchsorted(starts, train, side="right") - 1
    weights = [part.weight for part in parts if part.weight is not None]
    stage = job.stage
    plan = stage_plan(
        rows.lengths[train],
        StageLength(stage.epochs, stage.steps, stage.tokens),
        seed=job.train.seed,
        stage=job.train.stage_number,
        batch=BatchSize(stage.batch_tokens, stage.rows_multiple),
        mixture=Mixture(
            [np.flatnonzero(part_of == number) for number in range(len(parts))],
            weights or None,
            None if rows.weights is None else rows.weights[train],
        ),
        groups=rows.group_of(train),
    )
    return StageData(rows, train, held, plan, part_of)


def _check_captions(job: StageJob) -> None:
    """Raise ValueError if captions are to be drawn and none are there."""
    if job.train.captions is None or set(job.train.captions) <= {ALT}:
        return
    filesystem = job.filesystem or LocalFileSystem()
    for path in job.token_files:
        with filesystem.open_input_file(path) as source:
            if CAPTIONS in pq.read_schema(source).names:
                return
    raise ValueError("train.captions: the tokens have no captions beside those as found (section caption)")


def _check_longest(rows: TokenRows, train: NDArray[np.int64], job: StageJob) -> None:
    """Raise ValueError if the longest row fits no batch."""
    if not len(train):
        return
    longest = int(train[rows.lengths[train].argmax()])
    tokens = int(rows.lengths[longest])
    limits = {
        "batch_tokens": job.stage.batch_tokens,
        "train.micro_batch_tokens": job.train.tokens_at_once,
    }
    for field, most in limits.items():
        if most is not None and most < tokens:
            raise ValueError(
                f"{field} {most} is smaller than the longest sequence ({tokens} tokens), the sample "
                f"{rows.keys[longest].as_py()}: raise it, or leave such samples out by tokenize.max_tokens"
            )


def split_heldout(rows: TokenRows, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to train on, and row numbers held out."""
    draws = rows.heldout
    if draws is None:
        draws = np.fromiter((heldout_draw(key) for key in rows.keys.to_pylist()), dtype=np.float64)
    held = draws < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def _of_tasks(rows: TokenRows, tasks: tuple[str, ...], number: int, job: StageJob) -> NDArray[np.bool_]:
    """Mask of the rows of some tasks. Raises ValueError where none is."""
    numbers = [n for n, name in enumerate(rows.task_names) if name in tasks]
    wanted = np.isin(rows.task_numbers, numbers)
    if not wanted.any():
        raise ValueError(
            f"mixture[{number}].tasks: no token of target {job.stage.parts[number].target} is of "
            f"{', '.join(tasks)}; its tasks: {', '.join(sorted(rows.task_names)) or 'none'}"
        )
    return wanted
