"""Versions of a corpus, newest first."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table.snapshots import Snapshot

from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.last_versions import last_versions
from rasterloom.versions.record import Record


@dataclass(frozen=True)
class Version:
    """One snapshot of one table that a step made."""

    table: str
    snapshot_id: int
    committed: datetime
    record: Record
    current: bool


def log(corpus: Corpus, table: str | None = None) -> list[Version]:
    """Return the versions of one table, or of all, newest first."""
    found = []
    for name in (table,) if table else TABLES:
        opened = corpus.table(name)
        if opened is not None:
            head = corpus.head(opened)
            mine = _versions(name, opened.snapshots(), head)
            there = {(v.record.step, v.record.finished) for v in mine}
            last = last_versions(opened, head).values()  # also of those whose own snapshot is gone
            mine += [_version(name, s, r, head) for s, r in last if (r.step, r.finished) not in there]
            found += mine
    return sorted(found, key=lambda v: v.committed, reverse=True)


def made(corpus: Corpus) -> list[Version]:
    """Return the last version of every step at the corpus's ``ref``."""
    found: list[Version] = []
    for name in TABLES:
        opened = corpus.table(name)
        head = corpus.head(opened)
        if opened is not None:
            last = last_versions(opened, head)
            found += [_version(name, snapshot, record, head) for snapshot, record in last.values()]
    return found


def _versions(table: str, snapshots: Iterable[Snapshot], head: Snapshot | None) -> list[Version]:
    """Those of a table's snapshots that a step made, in their order."""
    found = []
    for snapshot in snapshots:
        record = Record.from_properties(snapshot.summary.additional_properties if snapshot.summary else {})
        if record is not None:
            found.append(_version(table, snapshot, record, head))
    return found


def _version(table: str, snapshot: Snapshot, record: Record, head: Snapshot | None) -> Version:
    when = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
    current = head is not None and snapshot.snapshot_id == head.snapshot_id
    return Version(table, snapshot.snapshot_id, when, record, current)
