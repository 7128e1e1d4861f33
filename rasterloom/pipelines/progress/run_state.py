"""What there is to see of a run at a moment: its steps, and how far the running one is."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rasterloom.pipelines.progress.in_flight import Flight
from rasterloom.pipelines.step import Shard
from rasterloom.pipelines.workspace.staging import Published, add_up
from rasterloom.recipe.price import Price
from rasterloom.versions.record import Record

ETA_EVERY_S = 1.0
GOOD = ("ok", "kept")  # outcomes that are no failure; of the steps that count neither, all but "failed: ..."
FAILED = "failed: "


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    BEFORE = "done before"
    STOPPED = "stopped"


@dataclass
class Watched:
    """One step. Times are seconds of ``time.monotonic``; what is counted is what this run did."""

    name: str
    state: State = State.WAITING
    why: str = ""
    """Why it runs."""
    unit: str = ""
    """What ``done`` and ``total`` count: shards, steps, tokens ...; empty: nothing is counted."""
    done: int = 0
    total: int | None = None
    note: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows by outcome, those of earlier runs' shards among them."""
    rows: int = 0
    n_bytes: int = 0
    lost: int = 0
    """Shards whose worker or node died."""
    flight: Flight = field(default_factory=Flight)
    training: dict[str, float] = field(default_factory=dict)
    """``loss``, ``tokens_per_s``, ``mfu`` of the latest step."""
    cpus: float = 0.0
    """That a worker holds."""
    gpus: float = 0.0
    began: float = 0.0
    ended: float | None = None
    all_rows: int = 0
    """Of its result, those of earlier runs among them."""
    written: int = 0
    """Bytes of its result."""
    workers: int = 0
    """That are at work, or were when it ended."""
    _charged: int = 0  # workers that are held all the time, as those of training are
    _held: float = 0.0  # until when the work of those is in _worker_seconds
    _worker_seconds: float = 0.0
    _first: tuple[float, int] | None = None  # when the first unit of this run was done, and how many then
    _eta: tuple[float, float | None] = (-ETA_EVERY_S, None)

    def begin(self, why: str, now: float) -> None:
        self.state, self.why, self.began = State.RUNNING, why, now

    def end(self, state: State, now: float) -> None:
        self.hold(0, now)
        self._worker_seconds += self.flight.seconds_at_work(now)
        self.state, self.ended, self.flight = state, now, Flight()

    def hold(self, workers: int, now: float) -> None:
        """Take in that so many workers are at work from now on, until it is said otherwise."""
        self._worker_seconds += self._charged * (now - self._held)
        self._charged, self._held = workers, now
        self.workers = workers or self.workers

    def shards(self, left: list[Shard], earlier: list[Published]) -> None:
        """Take in the shards that are left, and those that are done already."""
        self.unit, self.done, self.total = "shards", len(earlier), len(earlier) + len(left)
        self.counts = add_up([result.counts for result in earlier])
        self.flight = Flight(left)

    def given(self, ids: Iterable[str], room: int, now: float) -> None:
        """Take in which shards Ray was given, and for how many it has room."""
        self.flight.given(ids, room, now)
        self.workers = self.flight.busy

    def finished(self, result: Published, now: float) -> None:
        """Take in a finished shard."""
        self.flight.finished(result.id, now)
        self.done += 1
        self.rows += result.rows
        self.n_bytes += result.bytes
        self.counts = add_up([self.counts, result.counts])
        self._worker_seconds += result.seconds

    def update(self, done: int, total: int | None, now: float) -> None:
        """Take in how many units are done; the first that this run did are when its pace begins."""
        if self._first is None and done > self.done:
            self._first = (now, done)
        self.done, self.total = done, total if total is not None else self.total

    def result(self, record: Record | None, words: str) -> None:
        """Take in what is on record of the step, which is done."""
        assert record is not None
        self.all_rows, self.written, self.note = record.rows, record.n_bytes, words

    def seconds(self, now: float) -> float:
        return (self.ended if self.ended is not None else now) - self.began if self.began else 0.0

    def rows_per_s(self, now: float) -> float | None:
        seconds = self.seconds(now)
        return self.rows / seconds if self.rows and seconds > 0.5 else None

    def ok_share(self) -> float | None:
        """The share of rows that are no failure; None where the step has none that fail."""
        rows = sum(self.counts.values())
        if not rows or not (self.failures() or any(name in self.counts for name in GOOD)):
            return None
        return 1 - sum(self.failures().values()) / rows

    def failures(self) -> dict[str, int]:
        """Rows that failed, or were not kept, by class, the most first."""
        judged = any(name in self.counts for name in GOOD)
        bad = {n: rows for n, rows in self.counts.items() if (n not in GOOD if judged else FAILED in n)}
        return dict(sorted(((n, r) for n, r in bad.items() if r), key=lambda item: -item[1]))

    def eta_s(self, now: float) -> float | None:
        """Seconds until the step is done, None while that cannot be told. Worked out once a second."""
        if self.state is not State.RUNNING or not self.total:
            return None
        if now - self._eta[0] >= ETA_EVERY_S:
            self._eta = now, self._seconds_left(now)
        at, left = self._eta
        return None if left is None else max(0.0, left - (now - at))

    def _seconds_left(self, now: float) -> float | None:
        if self.unit == "shards":
            return self.flight.seconds_left(now)
        if self._first is None or self.total is None or self.done <= self._first[1]:
            return None
        pace = (now - self._first[0]) / (self.done - self._first[1])
        return pace * (self.total - self.done)

    def usd(self, price: Price, now: float) -> float:
        """What the workers held so far, in dollars."""
        seconds = self._worker_seconds + self._charged * (now - self._held)
        return price.usd(seconds + self.flight.seconds_at_work(now), self.cpus, self.gpus)


@dataclass
class WatchedRun:
    """All steps of a run."""

    corpus: str = ""
    price: Price = field(default_factory=Price)
    steps: dict[str, Watched] = field(default_factory=dict)
    began: float = 0.0
    running: Watched | None = None

    @property
    def is_priced(self) -> bool:
        return bool(self.price.cpu or self.price.gpu)

    def usd(self, now: float) -> float:
        return sum(step.usd(self.price, now) for step in self.steps.values())

    def facts(self, step: Watched, now: float) -> dict[str, Any]:
        """A step as plain values, under names that stay (docs/cluster.md); what is not known is left out."""
        of_shards = step.unit == "shards"
        share = step.ok_share()
        found: dict[str, Any] = {
            "step": step.name,
            "state": step.state.value,
            "why": step.why or None,
            "shards_done": step.done if of_shards else None,
            "shards_total": step.total if of_shards else None,
            "shards_lost": step.lost or None,
            "units": step.unit if step.unit and not of_shards else None,
            "units_done": step.done if step.unit and not of_shards else None,
            "units_total": step.total if not of_shards else None,
            "workers": step.workers or None,
            "rows": step.rows or None,
            "rows_per_s": _round(step.rows_per_s(now), 2),
            "bytes": step.n_bytes or None,
            "outcomes": step.counts or None,
            "ok_share": _round(share, 4),
            **{name: _round(value, 6) for name, value in step.training.items()},
            "seconds": _round(step.seconds(now), 1),
            "eta_s": _round(step.eta_s(now), 1),
            "cost_usd": _round(step.usd(self.price, now), 4) if self.is_priced else None,
            "note": step.note or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
