"""State of a run and its steps at a moment."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rasterloom.pipelines.progress.counts import (
    Count,
    Figures,
    InFlight,
    Lost,
    Note,
    ShardPlan,
    Unit,
    Workers,
)
from rasterloom.pipelines.progress.step_clock import ShardClock, StepClock
from rasterloom.pipelines.workspace.staging import Published, add_up
from rasterloom.recipe.price import Price
from rasterloom.versions.record import Record

GOOD = ("ok", "kept")  # outcomes that are no failure; of the steps that count neither, all but "failed: ..."
FAILED = "failed: "


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    BEFORE = "done before"
    STOPPED = "stopped"


@dataclass
class StepState:
    """Counted values of one step in this run, and its clock."""

    name: str
    state: State = State.WAITING
    why: str = ""
    """Why it runs."""
    unit: str = ""
    """Unit of ``done`` and ``total``: shards, steps, tokens ...; empty: nothing is counted."""
    done: int = 0
    total: int | None = None
    note: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Rows by outcome, those of earlier runs' shards among them."""
    rows: int = 0
    n_bytes: int = 0
    lost: int = 0
    """Shards whose worker or node died."""
    figures: dict[str, float] = field(default_factory=dict)
    """``loss``, ``tokens_per_s``, ``mfu`` of the latest training step."""
    workers: int = 0
    """At work, or when it ended."""
    cpus: float = 0.0
    """Of each worker."""
    gpus: float = 0.0
    record: Record | None = None
    """Its result, once it is done."""
    clock: StepClock = field(default_factory=StepClock)

    @property
    def of_shards(self) -> bool:
        return self.unit == "shards"

    def begin(self, now: float) -> None:
        """Start the step."""
        self.state = State.RUNNING
        self.clock.begin(now)

    def end(self, state: State, now: float) -> None:
        """End the step."""
        self.state = state
        self.clock.end(now)

    def plan(self, total: int | None, unit: str) -> None:
        """Take in the units of what begins; none is done."""
        self.done, self.total, self.unit, self.note = 0, total, unit, ""

    def advance(self, done: int, total: int | None, now: float) -> None:
        """Take in the units done so far, and their number in all."""
        self.clock.advanced(self.done, done, now)
        self.done, self.total, self.note = done, total if total is not None else self.total, ""

    def count(self, what: Count, now: float) -> None:
        """Take in what a step reports beside its position."""
        match what:
            case Workers():
                self._hold(what, now)
            case ShardPlan():
                self.unit, self.done = "shards", len(what.earlier)
                self.total = len(what.earlier) + len(what.left)
                self.outcomes = add_up([result.counts for result in what.earlier])
                self.cpus, self.gpus = what.cpus, what.gpus
                self.clock.shards = ShardClock(what.left)
            case InFlight():
                self.clock.shards.given(what.ids, what.room, now)
                self.workers = self.clock.shards.busy
            case Published():
                self._finish(what, now)
            case Lost():
                self.lost += 1
            case Unit():
                self.unit = what.name
            case Note():
                self.note = what.text
            case Figures():
                self.figures = dict(what.values)

    def result(self, record: Record | None, note: str) -> None:
        """Take in what is on record of the step, which is done."""
        assert record is not None
        self.record, self.note = record, note

    def _hold(self, workers: Workers, now: float) -> None:
        self.clock.hold(workers.count, now)
        self.workers = workers.count or self.workers
        self.cpus = self.cpus if workers.cpus is None else workers.cpus
        self.gpus = self.gpus if workers.gpus is None else workers.gpus

    def _finish(self, result: Published, now: float) -> None:
        self.clock.shards.finished(result.id, now)
        self.clock.charge(result.seconds)
        self.done += 1
        self.rows += result.rows
        self.n_bytes += result.bytes
        self.outcomes = add_up([self.outcomes, result.counts])

    def rows_per_s(self, now: float) -> float | None:
        """Return the throughput of this run, None before half a second."""
        seconds = self.clock.seconds(now)
        return self.rows / seconds if self.rows and seconds > 0.5 else None

    def ok_share(self) -> float | None:
        """Return the share of good rows; None where none can fail."""
        rows = sum(self.outcomes.values())
        if not rows or not (self.failures() or any(name in self.outcomes for name in GOOD)):
            return None
        return 1 - sum(self.failures().values()) / rows

    def failures(self) -> dict[str, int]:
        """Return the rows that failed or were dropped, by class, most first."""
        judged = any(name in self.outcomes for name in GOOD)
        bad = {n: rows for n, rows in self.outcomes.items() if (n not in GOOD if judged else FAILED in n)}
        return dict(sorted(((n, r) for n, r in bad.items() if r), key=lambda item: -item[1]))

    def eta_s(self, now: float) -> float | None:
        """Return the seconds until the step is done, None while unknown."""
        if self.state is not State.RUNNING or not self.total:
            return None
        return self.clock.eta_s(self.done, self.total, self.of_shards, now)

    def usd(self, price: Price, now: float) -> float:
        """Return the cost in dollars of what the workers held so far."""
        return price.usd(self.clock.worker_seconds(now), self.cpus, self.gpus)


@dataclass
class RunState:
    """All steps of a run."""

    corpus: str = ""
    price: Price = field(default_factory=Price)
    steps: dict[str, StepState] = field(default_factory=dict)
    began: float = 0.0
    running: StepState | None = None

    @property
    def is_priced(self) -> bool:
        return bool(self.price.cpu or self.price.gpu)

    def usd(self, now: float) -> float:
        return sum(step.usd(self.price, now) for step in self.steps.values())

    def facts(self, step: StepState, now: float) -> dict[str, Any]:
        """Return the known values of a step, under stable names (docs/cluster.md)."""
        of_shards = step.of_shards
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
            "outcomes": step.outcomes or None,
            "ok_share": _round(share, 4),
            **{name: _round(value, 6) for name, value in step.figures.items()},
            "seconds": _round(step.clock.seconds(now), 1),
            "eta_s": _round(step.eta_s(now), 1),
            "cost_usd": _round(step.usd(self.price, now), 4) if self.is_priced else None,
            "note": step.note or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
