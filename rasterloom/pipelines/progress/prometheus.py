"""Prometheus metrics of a run.

Ray's own endpoint on each node shows them, prefixed with ``ray_``.

``infra/grafana/rasterloom.json`` is a dashboard of them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from rasterloom.pipelines.workspace.staging import Published

COUNTERS = {
    "rasterloom_rows": "Rows of finished shards, by outcome: ok or a class of error, kept, a bucket.",
    "rasterloom_shards": "Finished shards.",
    "rasterloom_bytes": "Bytes of finished shards' data files.",
    "rasterloom_worker_seconds": "Seconds that workers were at work on finished shards.",
    "rasterloom_shards_lost": "Shards whose worker or node died, and that are done again.",
    "rasterloom_skipped_steps": "Training steps that the guard skipped.",
}
GAUGES = {
    "rasterloom_shards_left": "Shards of the running step that are not finished.",
    "rasterloom_steps_left": "Training steps that are not done.",
    "rasterloom_loss": "Loss of the last training step.",
    "rasterloom_tokens_per_second": "Tokens that all training workers take a second.",
    "rasterloom_mfu": "Model FLOPs utilization, where the device's peak is known.",
}
MEASURED = {
    "loss": "rasterloom_loss",
    "tokens_per_s": "rasterloom_tokens_per_second",
    "mfu": "rasterloom_mfu",
}

# Among a shard's counts, and no outcome of its rows: the sum of the others, and what is no row.
NO_OUTCOMES = ("read", "tokens")


class Metrics:
    """Counts one step of one corpus."""

    def __init__(self, corpus: str, step: str) -> None:
        self._tags = {"corpus": corpus, "step": step}
        self._skipped = 0

    def finished(self, result: Published, left: int) -> None:
        """Count a finished shard."""
        for outcome, rows in result.counts.items():
            if rows and outcome not in NO_OUTCOMES:
                _metric("rasterloom_rows").inc(rows, {**self._tags, "outcome": outcome})
        _metric("rasterloom_shards").inc(1, self._tags)
        if result.bytes:
            _metric("rasterloom_bytes").inc(result.bytes, self._tags)
        if result.seconds:
            _metric("rasterloom_worker_seconds").inc(result.seconds, self._tags)
        self.left(left)

    def trained(self, row: Mapping[str, Any]) -> None:
        """Show a training step, as the trainer's ``on_progress`` is given it."""
        for name, metric in MEASURED.items():
            if row.get(name) is not None:
                _metric(metric).set(row[name], self._tags)
        _metric("rasterloom_steps_left").set(row["total"] - row["step"], self._tags)
        skipped = row.get("skipped", 0)
        more = skipped - self._skipped if skipped >= self._skipped else skipped  # other workers count anew
        if more:
            _metric("rasterloom_skipped_steps").inc(more, self._tags)
        self._skipped = skipped

    def lost(self) -> None:
        """Count a shard whose worker or node died."""
        _metric("rasterloom_shards_lost").inc(1, self._tags)

    def left(self, shards: int) -> None:
        """Say how many shards are left."""
        _metric("rasterloom_shards_left").set(shards, self._tags)


@cache
def _metric(name: str) -> Any:
    """The metric of a name, made once a process."""
    from ray.util.metrics import Counter, Gauge  # heavy

    tags = ("corpus", "step", "outcome") if name == "rasterloom_rows" else ("corpus", "step")
    kind, words = (Counter, COUNTERS[name]) if name in COUNTERS else (Gauge, GAUGES[name])
    return kind(name, description=words, tag_keys=tags)
