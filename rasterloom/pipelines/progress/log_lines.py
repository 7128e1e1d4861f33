"""Progress as lines: text for people, JSON for programs."""

import json
import re
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from rasterloom.pipelines.progress.run_state import RunState, State, StepState
from rasterloom.pipelines.progress.status_text import details, ending, progress_of
from rasterloom.pipelines.progress.summary import print_summary
from rasterloom.utils.formatting import clock
from rasterloom.utils.redact import LINES, as_json, safe

EVERY_S, SELDOM_S = 5.0, 60.0  # between two lines of a step: first the one, the other when it takes long
SHARE = 0.05  # of the time that a step has taken


# Of a line of text: a step and how far it is, one that waits, or one that has begun.
POSITION = re.compile(r"  (\S+): ([^,]+)(, [\d:]+ left)?|  (\S+ waits for a node)|(\S+)  +\S")


def where_at(log: str) -> str:
    """Return the position of a run from its log, in either form."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"time": '):
            event = json.loads(line)
            if event["event"] in ("step", "progress"):
                return f"{event['step']}{_units(event)}"
        elif match := POSITION.match(line):
            step, done, left, waits, began = match.groups()
            return f"{step} {done}{left or ''}" if step else waits or began
    return ""


def _units(event: dict[str, Any]) -> str:
    done = event.get("shards_done", event.get("units_done"))
    total = event.get("shards_total", event.get("units_total"))
    left = f", {clock(event['eta_s'])} left" if "eta_s" in event else ""
    return f" {done:,} of {total:,}{left}" if total else ""


class _Lines(ABC):
    """Lines when a step begins or ends, and now and then."""

    def __init__(self, console: Console, run: RunState) -> None:
        self.console, self.run = console, run
        self._last_line = 0.0

    def open(self) -> None:
        self._last_line = 0.0

    def close(self) -> None:
        self.console.file.flush()

    def changed(self, step: StepState, event: str) -> None:
        now = time.monotonic()
        pause = min(SELDOM_S, max(EVERY_S, SHARE * step.clock.seconds(now)))
        if event == "progress" and now - max(self._last_line, step.clock.began) < pause:
            return
        self._last_line = now
        self.line(step, event, now)
        self.console.file.flush()

    @abstractmethod
    def line(self, step: StepState, event: str, now: float) -> None:
        """Write what there is to say of a step."""


class TextLines(_Lines):
    """Lines of text. One that says what the last said comes once in ``SELDOM_S``, as a sign of life."""

    _told, _told_at = "", 0.0  # of a step's progress

    def say(self, text: str) -> None:
        self.console.print(safe(text, LINES), highlight=False, markup=False)

    def line(self, step: StepState, event: str, now: float) -> None:
        width = max(map(len, self.run.steps))
        if event == State.BEFORE:
            self.console.print(
                f"{safe(step.name):<{width}}  done before, nothing to do", style="dim", markup=False
            )
        elif event == "step":
            self.say(f"{step.name:<{width}}  {step.why}")
        elif event == "progress":
            parts = [progress_of(step), ending(step, now), *details(step, self.run.price, now)]
            text = f"  {step.name}: {', '.join(part for part in parts if part)}"
            if text != self._told or now - self._told_at >= SELDOM_S:
                self._told, self._told_at = text, now
                self.say(text)
        elif event == State.DONE and step.note:
            self.say(f"{'':<{width}}  {step.note}")

    def ended(self, planned: list[str]) -> None:
        print_summary(self.console, self.run, planned)


class JsonLines(_Lines):
    """One object a line; docs/cluster.md has the names."""

    def say(self, text: str) -> None:
        self._write("note", {"text": text})

    def line(self, step: StepState, event: str, now: float) -> None:
        self._write(event if event in ("step", "progress") else "end", self.run.facts(step, now))

    def ended(self, planned: list[str]) -> None:
        now = time.monotonic()
        facts: dict[str, Any] = {"ran": planned, "seconds": round(now - self.run.began, 1)}
        if self.run.is_priced:
            facts["cost_usd"] = round(self.run.usd(now), 4)
        self._write("over", facts)

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": at, "event": event, "corpus": self.run.corpus, **facts}
        self.console.file.write(as_json(line) + "\n")
        self.console.file.flush()
