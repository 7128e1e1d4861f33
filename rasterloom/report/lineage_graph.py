"""Lineage of a corpus: records of steps, with their snapshots."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import yaml
from pyiceberg.table.snapshots import ancestors_of

from rasterloom.report.queries import Tables
from rasterloom.versions.record import Record


@dataclass(frozen=True)
class Made:
    """Finished step; ``table`` and ``snapshot_id`` are None where it has no table."""

    record: Record
    table: str | None = None
    snapshot_id: int | None = None

    @property
    def when(self) -> datetime | None:
        """Time when the step was finished, or None if unknown."""
        return datetime.fromisoformat(self.record.finished) if self.record.finished else None

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(self.record.inputs)

    @property
    def settings(self) -> str:
        """The step's config as YAML."""
        config = self.record.config
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""

    @property
    def per_second(self) -> float | None:
        """Rows per second of wall time."""
        return self.record.rows / self.record.seconds if self.record.rows and self.record.seconds else None


def lineage(tables: Tables, records: Iterable[Record]) -> list[Made]:
    """Find each record's snapshot among the page's versions and ancestors."""
    found: dict[str, tuple[str, int]] = {}
    for table, snapshot_id in tables.snapshots.items():
        opened = tables.corpus.table(table)
        head = opened.snapshot_by_id(snapshot_id) if opened else None
        if opened is None or head is None:
            continue
        for snapshot in ancestors_of(head, opened.metadata):
            summary = snapshot.summary
            record = Record.from_properties(summary.additional_properties) if summary else None
            if record is not None:
                found.setdefault(record.fingerprint, (table, snapshot.snapshot_id))
    return [Made(record, *found.get(record.fingerprint, ())) for record in records]


def depths(steps: list[Made]) -> dict[str, int]:
    """Depth of each step in the workflow, along the longest path."""
    depth: dict[str, int] = {}
    for made in steps:
        depth[made.record.step] = max((depth[p] + 1 for p in made.parents if p in depth), default=0)
    return depth


def nearest_parents(steps: list[Made]) -> dict[str, list[str]]:
    """Direct inputs of each step, by transitive reduction."""
    before: dict[str, set[str]] = {}
    found = {}
    for made in steps:
        parents = [p for p in made.parents if p in before]
        implied = set().union(*(before[p] for p in parents))
        before[made.record.step] = implied | set(parents)
        found[made.record.step] = [p for p in parents if p not in implied]
    return found
