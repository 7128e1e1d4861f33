"""Expiry of a table's snapshots, and the files that the others reach."""

from collections.abc import Collection
from dataclasses import dataclass, field

from pyiceberg.table import Table

from rasterloom.versions.corpus import Corpus
from rasterloom.versions.last_versions import last_versions, needed
from rasterloom.versions.record import Record
from rasterloom.versions.retrying import CONFLICTS, access_errors


@dataclass
class Reach:
    """URIs of the files of some snapshots."""

    data: set[str] = field(default_factory=set)
    metadata: set[str] = field(default_factory=set)


def staying(table: Table, since_ms: float, fingerprints: Collection[str]) -> set[int]:
    """Return the snapshots that stay.

    Those that a branch or a tag is at, with those before them that tell who made what of it; those that were
    made since a time (milliseconds of the epoch); and those that hold the results of some fingerprints.
    """
    kept: set[int] = set()
    for ref in table.refs().values():
        kept.update(needed(table, table.snapshot_by_id(ref.snapshot_id)))
    for snapshot in table.snapshots():
        record = Record.from_properties(snapshot.summary.additional_properties if snapshot.summary else {})
        if snapshot.timestamp_ms >= since_ms or (record and record.fingerprint in fingerprints):
            kept.add(snapshot.snapshot_id)
    return kept


def records_of(table: Table, snapshots: Collection[int]) -> list[Record]:
    """Return the records of what some snapshots hold."""
    there = [table.snapshot_by_id(snapshot) for snapshot in snapshots]
    return [record for snapshot in there for _, record in last_versions(table, snapshot).values()]


def reach(table: Table, snapshots: Collection[int]) -> Reach:
    """Return the files that a table and some snapshots refer to."""
    found = Reach(metadata={table.metadata_location})
    found.metadata.update(entry.metadata_file for entry in table.metadata.metadata_log)
    found.metadata.update(file.statistics_path for file in table.metadata.statistics)
    for snapshot in table.snapshots():
        if snapshot.snapshot_id not in snapshots:
            continue
        found.metadata.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in found.metadata:
                found.metadata.add(manifest.manifest_path)
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                found.data.update(entry.data_file.file_path for entry in entries)
    return found


def expire(corpus: Corpus, name: str, since_ms: float, fingerprints: Collection[str]) -> int:
    """Expire the snapshots that need not stay; return how many.

    No file is deleted.

    Raises:
        CommitFailedException: others kept committing to this table and won every time.
    """
    for attempt in CONFLICTS.attempts(f"expiry of snapshots of {corpus.name}.{name}"):
        table = corpus.table(name)
        if table is None:
            return 0
        kept = staying(table, since_ms, fingerprints)
        ids = [s.snapshot_id for s in table.snapshots() if s.snapshot_id not in kept]
        if not ids:
            return 0
        with attempt, access_errors():
            table.maintenance.expire_snapshots().by_ids(ids).commit()
            return len(ids)
    raise AssertionError("unreachable")
