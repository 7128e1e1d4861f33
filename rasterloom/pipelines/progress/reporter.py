"""Progress of a run, from the steps to the display.

On a terminal that is a live view (`live_view.py`), elsewhere a line now and then, or JSON (`log_lines.py`).
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console

from rasterloom.pipelines.progress.counts import Count, InFlight, Note
from rasterloom.pipelines.progress.live_view import LiveView
from rasterloom.pipelines.progress.log_lines import JsonLines, TextLines
from rasterloom.pipelines.progress.run_state import RunState, State, StepState
from rasterloom.recipe.run import Run
from rasterloom.utils.redact import cut


class Reporter(Protocol):
    """Receiver of a step's progress."""

    def step_started(self, name: str, total: int | None = None, unit: str = "") -> None:
        """Begin the step of a name, or another part of the work.

        ``total`` units are to be done; None where unknown.
        """

    def advanced(self, done: int, total: int | None = None) -> None:
        """Report the units done so far, and their number in all."""

    def counted(self, what: Count) -> None:
        """Report what counts beside that: workers, shards, a note, figures."""

    def step_ended(self, state: State = State.DONE, note: str = "") -> None:
        """End the step that runs."""

    def say(self, text: str) -> None:
        """Print a line beside the state of the steps."""


class Display(Protocol):
    """View of a run; its methods are called one at a time."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def say(self, text: str) -> None:
        """Print a line that is no state."""

    def changed(self, step: StepState, event: str) -> None:
        """Show a step's event: ``step``, ``progress``, or its state."""

    def ended(self, planned: list[str]) -> None:
        """Show the end of the run and the steps it planned."""


class Progress(Reporter):
    """State of a run and its display."""

    def __init__(self, console: Console, as_json: bool = False) -> None:
        """Choose the display: a live view, lines or JSON."""
        self.run = RunState()
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
        """Show the run within this block; restore the terminal."""
        self.run.began = self.run.began or time.monotonic()
        self._display.open()
        try:
            yield self
        finally:
            self._display.close()

    def say(self, text: str) -> None:
        self._display.say(text)  # without the lock: the live view's thread holds rich's when it takes ours

    def plan(self, corpus: str, names: Iterable[str], run: Run) -> None:
        """Set the steps of the run, in their order."""
        with self._lock:
            self.run.corpus, self.run.price = corpus, run.price
            self.run.steps = {name: StepState(name) for name in names}

    def skip(self, name: str) -> None:
        """Show that a step was done before."""
        with self._lock:
            self.run.steps[name].state = State.BEFORE
            self._display.changed(self.run.steps[name], State.BEFORE)

    @contextmanager
    def step(self, name: str, why: str) -> Iterator[StepState]:
        """Run a step within this block; a failure is shown."""
        with self._lock:
            self.step_started(name)
            step = self._running
            step.why = why
            self._display.changed(step, "step")
        state, note = State.STOPPED, ""
        try:
            yield step
            state = State.DONE
        except Exception as error:
            note = cut(error)
            raise
        finally:
            self._end(step, state, note)

    def step_started(self, name: str, total: int | None = None, unit: str = "") -> None:
        with self._lock:
            now = time.monotonic()
            step = self.run.steps.setdefault(name, StepState(name))
            before = self.run.running
            if before and before is not step and before.state is State.RUNNING:
                before.end(State.DONE, now)
            if step.state is not State.RUNNING:
                step.begin(now)
            step.plan(total, unit)
            self.run.running = step

    def advanced(self, done: int, total: int | None = None) -> None:
        with self._lock:
            self._running.advance(done, total, time.monotonic())
            self._display.changed(self._running, "progress")

    def counted(self, what: Count) -> None:
        with self._lock:
            self._running.count(what, time.monotonic())
            if isinstance(what, InFlight | Note):
                self._display.changed(self._running, "progress")

    def step_ended(self, state: State = State.DONE, note: str = "") -> None:
        self._end(self._running, state, note)

    def _end(self, step: StepState, state: State, note: str) -> None:
        with self._lock:
            step.note = note or step.note
            step.end(state, time.monotonic())
            self._display.changed(step, state)

    def ended(self, planned: list[str]) -> None:
        """Show the end of the run and the steps it planned."""
        self._display.ended(planned)

    @property
    def _running(self) -> StepState:
        assert self.run.running is not None
        return self.run.running


def figures(row: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a training step that are shown."""
    return {name: row[name] for name in ("loss", "tokens_per_s", "mfu") if row.get(name) is not None}
