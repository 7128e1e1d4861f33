"""The last version that each step gave to a table.

Several steps may share a table, as every target of ``tokens`` does. Each snapshot therefore carries, beside
the record of its own step, the last records of the others, so that it is whole without those before it:
these can be removed.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot, ancestors_of

from rasterloom.versions.record import PREFIX, Record

OTHERS = PREFIX + "others"  # {step: {"snapshot": its id, "record": ...}}, in JSON

Made = tuple[Snapshot, Record]


def last_versions(table: Table, head: Snapshot | None) -> dict[str, Made]:
    """Return each step's last version as of a snapshot, newest first.

    Where the snapshot of a version has been removed, one that has the same rows of that step stands for it.
    """
    found: dict[str, Made] = {}
    for snapshot, properties in _ancestry(table, head):
        record = Record.from_properties(properties)
        if record is not None:
            found.setdefault(record.step, (snapshot, record))
        for step, other in json.loads(properties.get(OTHERS, "{}")).items():
            its_own = table.snapshot_by_id(other["snapshot"])
            found.setdefault(step, (its_own or snapshot, Record(**other["record"])))
    return found


def needed(table: Table, head: Snapshot | None) -> set[int]:
    """Return the snapshots that a version needs, itself among them.

    Without the latter all would still be known, but a training that was stopped has noted which it read. They
    go where a takedown came after them, as they hold what it took.
    """
    found = {snapshot.snapshot_id for snapshot, _ in _ancestry(table, head)}
    newest_first = sorted(last_versions(table, head).values(), key=lambda v: -(v[0].sequence_number or 0))
    for snapshot, record in newest_first:
        found.add(snapshot.snapshot_id)
        if record.of_takedown:
            break
    return found


def properties_of(table: Table, head: Snapshot | None, record: Record) -> dict[str, str]:
    """Return the properties of a snapshot that follows another one."""
    others = {
        step: {"snapshot": snapshot.snapshot_id, "record": asdict(last)}
        for step, (snapshot, last) in last_versions(table, head).items()
        if step != record.step
    }
    return {**record.to_properties(), OTHERS: json.dumps(others)}


def _ancestry(table: Table, head: Snapshot | None) -> Iterator[tuple[Snapshot, dict[str, str]]]:
    """Yield a snapshot and its ancestors, until one sums up the others."""
    for snapshot in ancestors_of(head, table.metadata):
        properties = snapshot.summary.additional_properties if snapshot.summary else {}
        yield snapshot, properties
        if OTHERS in properties:
            return
