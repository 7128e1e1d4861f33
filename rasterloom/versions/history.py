"""The versions of a corpus: what was committed to its tables, newest first."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table.snapshots import ancestors_of

from rasterloom.versions.record import Record
from rasterloom.versions.tables import TABLES, Corpus


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
        if opened is None:
            continue
        head = corpus.head(opened)
        for snapshot in opened.snapshots():
            record = Record.from_properties(
                snapshot.summary.additional_properties if snapshot.summary else {}
            )
            if record is not None:
                when = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
                current = head is not None and snapshot.snapshot_id == head.snapshot_id
                found.append(Version(name, snapshot.snapshot_id, when, record, current))
    return sorted(found, key=lambda v: v.committed, reverse=True)


def made(corpus: Corpus) -> list[Version]:
    """Return what the tables hold at the corpus's ``ref``: the last version of every step in them."""
    found = []
    for name in TABLES:
        table = corpus.table(name)
        head = corpus.head(table)
        if table is None or head is None:
            continue
        seen = set()
        for snapshot in ancestors_of(head, table.metadata):
            record = Record.from_properties(
                snapshot.summary.additional_properties if snapshot.summary else {}
            )
            if record is not None and record.step not in seen:
                seen.add(record.step)
                when = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
                found.append(Version(name, snapshot.snapshot_id, when, record, snapshot == head))
    return found
