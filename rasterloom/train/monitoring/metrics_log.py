"""Metrics of each step, in ``metrics.jsonl`` and in trackers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rasterloom.train.monitoring.trackers import Tracker
from rasterloom.utils.json_files import to_json


@dataclass(frozen=True)
class StepSums:
    """Sums of one step over all ranks."""

    loss: float
    """Mean of -log p(token), over the tokens that count."""
    z: float
    """Mean of logsumexp(logits)^2, unweighted."""
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Tokens that went through the model."""
    loss_tokens: int
    """Tokens that count in the loss."""
    useful_share: float
    """tokens / (ranks * most tokens on a rank): what is not lost to ranks that wait."""


class MetricsLog:
    """Log with a line a step. Figures that are not finite are null.

    Lines beyond step ``keep`` are of an attempt that was lost and are removed.
    """

    def __init__(self, path: Path | None, *, keep: int, trackers: Sequence[Tracker] = ()) -> None:
        """Open the log. With ``path`` None, on ranks other than 0, nothing is written."""
        self._trackers = trackers
        self._losses: list[float] = []
        self.refused_last = 0
        """Number of the last steps that were refused, one after the other."""
        self._file: IO[str] | None = None
        if path is None:
            return
        kept = [record for record in read_metrics(path) if record["step"] <= keep]
        for record in kept:
            self._count(record, record["loss"])
        draft = path.with_suffix(".draft")
        draft.write_text("".join(to_json(record) + "\n" for record in kept))
        draft.replace(path)
        self._file = path.open("a")

    def write(
        self,
        sums: StepSums,
        *,
        step: int,
        total: int,
        lr: float,
        seconds: float,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Note a step, and return what is noted of it.

        Args:
            step: counts from 1.
            more: is noted beside what is said of every step; a ``note`` says why the step was not taken.
        """
        record: dict[str, Any] = {
            "step": step,
            "total": total,
            "loss": round(sums.loss, 6),
            "z": round(sums.z, 4),
            "lr": lr,
            "grad_norm": round(sums.grad_norm, 5),
            "tokens": sums.tokens,
            "loss_tokens": sums.loss_tokens,
            "tokens_per_s": round(sums.tokens / max(seconds, 1e-9), 1),
            "useful_share": round(sums.useful_share, 4),
            "seconds": round(seconds, 4),
            **(more or {}),
        }
        self._count(record, sums.loss)
        if self._file is not None:
            self._file.write(to_json(record) + "\n")
            self._file.flush()
            for tracker in self._trackers:
                tracker.scalars(flat(record, "train"), step)
        return record

    def _count(self, record: Mapping[str, Any], loss: float) -> None:
        if "note" in record:
            self.refused_last += 1
            return
        self.refused_last = 0
        self._losses.append(loss)

    def recent_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        recent = self._losses[-max(1, len(self._losses) // 10) :]
        return sum(recent) / max(1, len(recent))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def flat(record: Mapping[str, Any], place: str) -> dict[str, float]:
    """The numbers of a record by trackers' names, as ``train/tasks/t2i/loss``."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{place}/{name}")
        elif isinstance(value, int | float) and name not in ("step", "total"):
            found[f"{place}/{name}"] = float(value)
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log. One that a killed writer left unfinished is passed over."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records
