"""Halving of a shard down to the rows that kill workers.

A part is published beside the shards, under the shard's name and its rows. Once all rows are there the parts
are joined, and the result is that of the shard. A run that goes on after a stop finds the parts that it has
made, rows that killed their workers among them.
"""

import logging
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from pydantic import BaseModel

from rasterloom.errors import one_line
from rasterloom.pipelines.execution.shard_pool import TRIES
from rasterloom.pipelines.step import Shard, ShardResult, ShardSpec, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.storage import layout
from rasterloom.storage.parquet_io import read_file
from rasterloom.storage.store import Store

logger = logging.getLogger(__name__)

SPLIT_AFTER = 2  # deaths at a whole shard: one may be of memory that others took
TRIES_ALONE = 3  # of a row
IN_VAIN = 30  # deaths at a shard without a part that came through: no rows do this, the machine does

_PART = re.compile(r"(?P<shard>.+)-(?P<start>\d{6,})-(?P<stop>\d{6,})-[0-9a-f]{20}\.json")


@dataclass(frozen=True)
class Job:
    """Work for a worker: a shard, rows of one, or the joining of its parts."""

    shard: Shard  # of the plan
    step: ShardStep
    given: Shard
    rows: range | None = None  # of a part
    joins: bool = False
    suspect: bool = False  # its worker died while others were in it

    @property
    def alone(self) -> bool:
        """True if a death in its process shall be its own."""
        return self.suspect or self.rows is not None

    @property
    def name(self) -> str:
        """Name for a person."""
        if self.rows is None:
            return f"{self.shard.name}{', joined' if self.joins else ''}"
        return f"{self.shard.name}, rows {self.rows.start:,} to {self.rows.stop - 1:,}"


class Halving:
    """Jobs of a step's shards, and what follows from their ends."""

    def __init__(self, store: Store, place: str, step: ShardStep) -> None:
        self._store, self._place, self._step = store, place, step
        self._done: dict[str, dict[int, str]] = {}  # ids of the parts of a shard, by their first row
        self._sizes: dict[str, int] = {}
        self._missing: dict[str, int] = {}  # rows that no part has
        self._deaths = Counter[str]()
        self._in_vain = Counter[str]()
        self._found = self._published_parts() if step.halves else {}

    def jobs(self, shard: Shard) -> list[Job]:
        """Return the jobs that a shard begins with: itself, or what is left of its parts."""
        made = self._made_before(shard)
        if not made:
            return [Job(shard, self._step, shard)]
        place, left, done = 0, [], self._done.setdefault(shard.name, {})
        for rows, id_ in sorted(made, key=lambda part: (part[0].start, -part[0].stop)):
            if rows.start >= place:  # two runs at once may have split otherwise
                left += [self._part(shard, range(place, rows.start))] if place < rows.start else []
                done[rows.start] = id_
                self._missing[shard.name] -= len(rows)
                place = rows.stop
        size = self._size(shard)
        left += [self._part(shard, range(place, size))] if place < size else []
        return left or [self._joining(shard)]

    def done(self, job: Job, result: Published) -> list[Job]:
        """Take in a job's result. Return the joining after the last part."""
        name = job.shard.name
        if job.joins:
            self._forget_parts(job.shard)
        elif job.rows is not None:
            if job.step is self._step:
                self._in_vain[name] = 0
            self._done.setdefault(name, {})[job.rows.start] = result.id
            self._missing[name] -= len(job.rows)
            return [] if self._missing[name] else [self._joining(job.shard)]
        return []

    def died(self, job: Job) -> int:
        """Count a death of a job's worker, and return its number."""
        self._in_vain[job.shard.name] += 1
        self._deaths[job.name] += 1
        return self._deaths[job.name]

    def is_last(self, job: Job) -> bool:
        """True if a job is neither repeated nor halved."""
        number = self._deaths[job.name]
        if not self._step.halves or job.joins:
            return number >= TRIES
        if self._in_vain[job.shard.name] >= IN_VAIN:
            return True
        return len(self._rows(job)) <= 1 and number >= TRIES_ALONE

    def instead(self, job: Job, error: Exception) -> list[Job]:
        """Return what is done in place of a job whose worker died. Nothing if that is the end."""
        rows = self._rows(job)
        if self.is_last(job):
            gives_up = not rows or job.joins or self._in_vain[job.shard.name] >= IN_VAIN
            return [] if gives_up else [self._put_aside(job.shard, rows, error)]
        whole = job.rows is None and self._deaths[job.name] < SPLIT_AFTER
        if len(rows) <= 1 or job.joins or whole:
            return [job]
        logger.warning("%s: shard %s is halved to find what kills its worker", self._step.name, job.name)
        middle = (rows.start + rows.stop) // 2
        later, first = range(middle, rows.stop), range(rows.start, middle)
        return [self._part(job.shard, half) for half in (later, first)]

    def _rows(self, job: Job) -> range:
        """The rows of a job. None where they cannot be told apart."""
        if not self._step.halves:
            return range(0)
        return range(self._size(job.shard)) if job.rows is None else job.rows

    def _part(self, shard: Shard, rows: range) -> Job:
        halves = self._step.halves
        assert halves
        spec = halves.part(shard.task, rows.start, len(rows))
        given = Shard(f"{shard.name}-{rows.start:06d}-{rows.stop:06d}", spec, rows=len(rows))
        return Job(shard, self._step, given, rows)

    def _put_aside(self, shard: Shard, rows: range, error: Exception) -> Job:
        """Return the job that makes a row a failure."""
        halves, job = self._step.halves, self._part(shard, rows)
        assert halves
        detail = f"its worker died {TRIES_ALONE} times at this row alone: {one_line(error, named=True)}"
        return replace(job, step=replace(self._step, work=partial(halves.killed, detail=detail)))

    def _joining(self, shard: Shard) -> Job:
        ids = tuple(id_ for _, id_ in sorted(self._done[shard.name].items()))
        work = partial(join_parts, place=self._place, ids=ids, shard_id=shard.id)
        return Job(shard, replace(self._step, work=work), shard, joins=True)

    def _size(self, shard: Shard) -> int:
        assert self._step.halves
        if shard.name not in self._sizes:
            self._sizes[shard.name] = self._step.halves.rows(self._store, shard.task)
            self._missing[shard.name] = self._sizes[shard.name]
        return self._sizes[shard.name]

    def _published_parts(self) -> dict[str, list[tuple[str, range]]]:
        found: dict[str, list[tuple[str, range]]] = {}
        for name in self._store.list(layout.staged_shards(self._place)):
            if part := _PART.fullmatch(name.rpartition("/")[2]):
                rows = range(int(part["start"]), int(part["stop"]))
                found.setdefault(part["shard"], []).append((name, rows))
        return found

    def _made_before(self, shard: Shard) -> list[tuple[range, str]]:
        """Return the parts of a shard as it is now. Parts of what it was before a takedown go."""
        parts = []
        for name, rows in self._found.get(shard.name, []):
            self._size(shard)
            id_ = self._part(shard, rows).given.id
            if layout.staged_shard(self._place, id_) == name:
                parts.append((rows, id_))
            else:
                self._store.delete(name)
        return parts

    def _forget_parts(self, shard: Shard) -> None:
        """Delete the parts of a shard whose joined result is published."""
        before = [name for name, _ in self._found.get(shard.name, [])]
        names = {layout.staged_shard(self._place, id_) for id_ in self._done[shard.name].values()}
        for name in {*before, *names}:
            with suppress(FileNotFoundError):  # another run was first
                for file in staging.read_published(self._store, name).files:
                    self._store.delete(file)
            self._store.delete(name)


def join_parts(
    store: Store, spec: ShardSpec, config: BaseModel, *, place: str, ids: tuple[str, ...], shard_id: str
) -> ShardResult:
    """Return the rows of published parts, one after another."""

    def read(ids: tuple[str, ...]) -> ShardResult:
        parts = [staging.read_published(store, layout.staged_shard(place, id_)) for id_ in ids]
        tables = [read_file(store, name) for part in parts for name in part.files]
        return pa.concat_tables(tables), staging.add_up([part.counts for part in parts])

    try:
        return read(ids)
    except FileNotFoundError:  # another run has joined them
        return read((shard_id,))
