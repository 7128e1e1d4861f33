"""Records of benchmarks/gpu.py: a line of JSON a figure, with its goal and its prediction."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, goal: value >= goal,
    "<=": lambda value, goal: value <= goal,
    "==": lambda value, goal: value == goal,
}


@dataclass(frozen=True)
class Timed:
    """Time of some work, repeated."""

    seconds: float
    """The median."""
    spread: float
    """(slowest - fastest) / median."""
    runs: int


class Bench:
    """A stage under way: its device, the sizes of a rehearsal, and where its figures go.

    Attributes:
        rehearses: every stage runs on the CPU with a tiny model; its figures say nothing and have no goals.
    """

    def __init__(self, stage: str, file: Path, *, rehearses: bool) -> None:
        self.stage, self.rehearses, self._file = stage, rehearses, file
        self.device = torch.device("cpu" if rehearses else "cuda")
        self._began = time.monotonic()

    def note(
        self,
        name: str,
        value: float | str | None,
        unit: str = "",
        *,
        goal: tuple[str, float] | None = None,
        predicted: float | str | None = None,
        timed: Timed | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a figure at once: a stage that is cut off leaves what it has."""
        op, wanted = goal if goal else (None, None)
        judged = goal and isinstance(value, int | float) and not self.rehearses
        record = {
            "stage": self.stage,
            "name": name,
            "value": value,
            "unit": unit,
            "goal": wanted,
            "op": op,
            "ok": OPERATORS[goal[0]](float(value), goal[1])
            if judged and goal and value is not None
            else None,
            "predicted": predicted,
            "n": timed.runs if timed else 1,
            "spread": round(timed.spread, 4) if timed else None,
            "args": dict(args or {}),
            "t": round(time.monotonic() - self._began, 1),
        }
        with self._file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def timed(self, work: Callable[[], object], *, warm: int = 2, runs: int = 5) -> Timed:
        """Time some work, on a GPU by its own events."""
        if self.rehearses:
            warm, runs = 0, 1
        for _ in range(warm):
            work()
        found = [self._once(work) for _ in range(runs)]
        median = statistics.median(found)
        return Timed(median, (max(found) - min(found)) / median if median else 0.0, runs)

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def peak(self) -> int:
        """Bytes allocated at most since `reset_peak`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to what is expected."""
    expected = expected.double()
    norm = float(expected.norm())
    return float((found.to(expected.device).double() - expected).norm()) / max(norm, 1e-30)
