"""Exactly-once publication of a step's files as a table's next version."""

import logging
import time
import warnings
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot

from rasterloom.errors import VersionError
from rasterloom.versions.corpus import MAIN, Corpus
from rasterloom.versions.create_table import open_or_create
from rasterloom.versions.data_files import data_files
from rasterloom.versions.last_versions import last_versions, properties_of
from rasterloom.versions.record import Record
from rasterloom.versions.retrying import COMMITS, access_errors, with_retries

logger = logging.getLogger(__name__)
SLOW_S = 10.0  # a commit that took longer is logged
NAME_MAPPING = "schema.name-mapping.default"


def head_snapshot(corpus: Corpus, table: Table | None, step: str) -> tuple[Snapshot, Record] | None:
    """Return the last version of ``step`` at ``corpus.ref``, or None."""
    return last_versions(table, corpus.head(table)).get(step) if table is not None else None


def commit(
    corpus: Corpus,
    name: str,
    schema: pa.Schema,
    files: Mapping[str, str] | Sequence[str],
    record: Record,
    *,
    replaces: str = "",
    partition_by: tuple[str, ...] = (),
) -> int:
    """Commit a step's Parquet files to a table; return the snapshot's id.

    The rows that match ``replaces`` (an Iceberg filter; all rows when empty) give way to the new ones.
    Any number of callers may commit the same record at once: one snapshot comes of it.

    Args:
        files: names in the corpus's store; they become the table's data files where they lie. As a mapping,
            with the texts of their footers (``storage.footers``), or "" for those that are to be read.

    Raises:
        CommitFailedException: others kept committing to this table and won every time.
        VersionError: the corpus is seen at a tag or a snapshot, which never change.
    """
    began = time.monotonic()
    what = f"commit of {record.step} to {corpus.name}.{name}"
    table = with_retries(what, lambda: open_or_create(corpus, name, schema, partition_by))
    if corpus.ref != MAIN:
        _have_branch(corpus, table)
    texts = files if isinstance(files, Mapping) else dict.fromkeys(files, "")
    footers = {corpus.store.uri(file): text for file, text in texts.items()}
    for number, attempt in enumerate(COMMITS.attempts(what)):
        if number:
            with_retries(what, table.refresh)
        head = with_retries(what, lambda: head_snapshot(corpus, table, record.step))
        if head is not None and head[1].fingerprint == record.fingerprint:  # maybe of an answer that was lost
            return head[0].snapshot_id
        with attempt, access_errors():
            _commit_once(corpus, table, schema, footers, record, replaces)
    with_retries(what, table.refresh)
    head = head_snapshot(corpus, table, record.step)
    assert head is not None
    if (took := time.monotonic() - began) > SLOW_S:
        logger.warning("%s took %.0f s, %d files", what, took, len(files))
    return head[0].snapshot_id


def _have_branch(corpus: Corpus, table: Table) -> None:
    """Create the branch to commit to, empty, if it is missing."""
    there = table.refs().get(corpus.ref)
    if corpus.ref.isdecimal() or (there and there.snapshot_ref_type is not SnapshotRefType.BRANCH):
        raise VersionError(
            f"{corpus.name}@{corpus.ref} is a version, and versions do not change; to go on from it, begin a "
            f"branch: rasterloom versions branch RECIPE NAME"
        )
    if there is None:
        if table.current_snapshot() is None:  # Iceberg wants main to have a snapshot before any branch
            table.append(table.schema().as_arrow().empty_table())
            table.refresh()
        head = table.current_snapshot()
        assert head is not None
        table.manage_snapshots().create_branch(head.snapshot_id, corpus.ref).commit()
        table.refresh()


def _commit_once(
    corpus: Corpus, table: Table, schema: pa.Schema, footers: dict[str, str], record: Record, replaces: str
) -> None:
    with table.transaction() as transaction:
        with transaction.update_schema() as update:
            update.union_by_name(schema)
        mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
        if transaction.table_metadata.properties.get(NAME_MAPPING) != mapping:
            transaction.set_properties({NAME_MAPPING: mapping})
        head = corpus.head(table)
        if head is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Delete operation did not match any records")
                transaction.delete(replaces or AlwaysTrue(), branch=corpus.ref)
        properties = properties_of(table, head, record)
        with transaction.update_snapshot(properties, branch=corpus.ref).fast_append() as append:
            known = {uri: text for uri, text in footers.items() if text}
            for file in data_files(table.io, transaction.table_metadata, list(footers), known):
                append.append_data_file(file)
