"""Data loader of a rank: its micro-batches of each global batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.train.data.batching import assign_to_ranks
from rasterloom.train.data.captions import draw_caption
from rasterloom.train.data.collate import Packed, drop_context, is_dropped, pack
from rasterloom.train.data.groups import NO_PROMPT, Groups
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.data.stage_plan import StagePlan
from rasterloom.train.data.token_dataset import TokenRows
from rasterloom.train.job import StageJob


@dataclass(frozen=True)
class StageLoader:
    """Data loader of a stage: rows, those trained on, and their order."""

    job: StageJob
    rows: TokenRows
    trained: NDArray[np.int64]  # row numbers
    held: NDArray[np.int64]
    plan: StagePlan  # of ``trained``
    part_of: NDArray[np.int64]  # of each of ``trained``, the number of its part of the stage

    def batches(self, start: int) -> Iterator[list[Packed]]:
        """Yield this rank's micro-batches of each global batch, from step ``start`` on."""
        rank, world = dist.get_rank(), dist.get_world_size()
        most = self.job.train.tokens_at_once
        for batch in self.plan.batches(start):
            # Dealt out by place: a row of a small part may come twice in a batch, in two passes.
            places = np.arange(len(batch.rows))
            parts = assign_to_ranks(places, self.plan.lengths[batch.rows], world, most)[rank]
            yield [self._packed(batch.rows[part], batch.passes[part]) for part in parts]

    def _packed(self, planned: NDArray[np.int64], passes: NDArray[np.int64]) -> Packed:
        """Fetch and pack rows of the plan, each with its pass."""
        rows = self.trained[planned]
        samples, train = self.rows.fetch(rows), self.job.train
        names: list[str] | None = None if train.captions is None else []
        of_part = self.part_of[planned].tolist()
        for i, (row, part, a_pass) in enumerate(zip(rows.tolist(), of_part, passes.tolist(), strict=True)):
            key = self.rows.keys[row].as_py()
            dropped = is_dropped(key, train, part=part, a_pass=a_pass)
            if names is not None:
                name, samples[i] = draw_caption(samples[i], key, train, part=part, a_pass=a_pass)
                names.append(NO_PROMPT if dropped else name)
            if dropped:
                samples[i] = drop_context(samples[i], self.job.profile)
        groups = Groups.of(self.rows)
        return pack(samples, groups.of_rows(self.rows, rows, groups.known(names)))


def open_loader(job: StageJob) -> StageLoader:
    """Open a job's rows and plan its batches.

    Raises:
        ValueError: there is nothing to train on, or a sequence is longer than a batch.
        FileNotFoundError: a file is missing.
    """
    data = open_stage(job)
    return StageLoader(job, data.rows, data.train, data.held, data.plan, data.part_of)
