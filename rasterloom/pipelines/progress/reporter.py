"""What a run tells while it goes on: steps report here, and a display shows it, whichever fits.

On a terminal that is a live view (`live.py`), elsewhere a line now and then, or JSON (`loglines.py`).
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console

from rasterloom.pipelines.progress.live_view import LiveView
from rasterloom.pipelines.progress.log_lines import JsonLines, TextLines
from rasterloom.pipelines.progress.run_state import State, Watched, WatchedRun
from rasterloom.pipelines.step import Shard
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.run import Run
from rasterloom.utils.redact import cut


class Display(Protocol):
    """Shows a run. Its methods are called by whoever works, one at a time."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def say(self, text: str) -> None:
        """Tell something that is no state."""

    def changed(self, step: Watched, event: str) -> None:
        """A step has begun, gone on or come to its end: ``step``, ``progress``, or its state."""

    def ended(self, planned: list[str]) -> None:
        """The run is over; those of the steps that were named were to be run."""


class Progress:
    """Where a run's steps tell how far they are."""

    def __init__(self, console: Console, as_json: bool = False) -> None:
        """Show on a console what fits it: a live view or lines; or JSON."""
        self.run = WatchedRun()
        self._lock = threading.RLock()
        self._display: Display
        if as_json:
            self._display = JsonLines(console, self.run)
        elif console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            self._display = LiveView(console, self.run, self._lock)
        else:
            self._display = TextLines(console, self.run)

    @contextmanager
    def showing(self) -> Iterator["Progress"]:
        """Show what goes on as long as the block lasts; whatever ends it, the terminal is as before."""
        self.run.began = self.run.began or time.monotonic()
        self._display.open()
        try:
            yield self
        finally:
            self._display.close()

    def say(self, text: str) -> None:
        """Tell something beside the state of the steps, in a line."""
        self._display.say(text)  # without the lock: the live view's thread holds rich's when it takes ours

    def plan(self, corpus: str, names: Iterable[str], run: Run) -> None:
        """Say which steps there are, in their order."""
        with self._lock:
            self.run.corpus, self.run.price = corpus, run.price
            self.run.steps = {name: Watched(name) for name in names}

    def skip(self, name: str) -> None:
        """Say that a step was done before."""
        with self._lock:
            self.run.steps[name].state = State.BEFORE
            self._display.changed(self.run.steps[name], State.BEFORE)

    @contextmanager
    def step(self, name: str, why: str) -> Iterator[Watched]:
        """Have a step run as long as the block lasts; one that fails or is stopped is shown so."""
        with self._lock:
            self.run.running = step = self.run.steps[name]
            step.begin(why, time.monotonic())
            self._display.changed(step, "step")
        state = State.STOPPED
        try:
            yield step
            state = State.DONE
        except Exception as error:
            step.note = cut(error)
            raise
        finally:
            with self._lock:
                step.end(state, time.monotonic())
                self._display.changed(step, state)

    def start(self, name: str, total: int | None, unit: str = "") -> None:
        """Begin something of ``total`` units, unknown when None: the step of that name, if there is one."""
        with self._lock:
            now = time.monotonic()
            step = self.run.steps.setdefault(name, Watched(name))
            before = self.run.running
            if before and before is not step and before.state is State.RUNNING:
                before.end(State.DONE, now)
            if step.state is not State.RUNNING:
                step.begin("", now)
            step.done, step.total, step.unit, step.note = 0, total, unit, ""
            self.run.running = step

    def holds(self, workers: int, cpus: float, gpus: float) -> None:
        """Say what the running step holds from now on: so many workers, with so much each."""
        with self._lock:
            step = self._running
            step.hold(workers, time.monotonic())
            step.cpus, step.gpus = cpus, gpus

    def shards(self, left: list[Shard], earlier: list[Published], cpus: float, gpus: float) -> None:
        """Say which shards of the running step are left, and what a worker that is at one holds."""
        with self._lock:
            self._running.shards(left, earlier)
            self._running.cpus, self._running.gpus = cpus, gpus

    def given(self, ids: Iterable[str], workers: int) -> None:
        """Say which shards Ray was given, in their order, and for how many it has room."""
        with self._lock:
            self._running.given(ids, workers, time.monotonic())
            self._display.changed(self._running, "progress")

    def finished(self, result: Published) -> None:
        """Say that a shard is done."""
        with self._lock:
            self._running.finished(result, time.monotonic())

    def lost(self) -> None:
        """Say that a shard's worker or node died."""
        with self._lock:
            self._running.lost += 1

    def advance(self, units: int) -> None:
        """Say that units more are done."""
        self.update(self._running.done + units)

    def update(
        self,
        done: int,
        note: str = "",
        total: int | None = None,
        unit: str = "",
        workers: int | None = None,
        training: dict[str, float] | None = None,
    ) -> None:
        """Say how many units are done in all, and by how many workers."""
        with self._lock:
            step, now = self._running, time.monotonic()
            step.update(done, total, now)
            step.note, step.unit, step.training = note, unit or step.unit, training or step.training
            if workers is not None:
                step.hold(workers, now)
            self._display.changed(step, "progress")

    def ended(self, planned: list[str]) -> None:
        """Say that the run is over, and which steps were to be run; nothing is shown any more."""
        self._display.ended(planned)

    @property
    def _running(self) -> Watched:
        assert self.run.running is not None
        return self.run.running


def figures(row: dict[str, Any]) -> dict[str, float]:
    """What is shown of a training step."""
    return {name: row[name] for name in ("loss", "tokens_per_s", "mfu") if row.get(name) is not None}
