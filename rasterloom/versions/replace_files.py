"""Replacement of a table's data files in one new version."""

from collections.abc import Mapping

from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from rasterloom.versions.corpus import Corpus
from rasterloom.versions.last_versions import properties_of
from rasterloom.versions.record import Record
from rasterloom.versions.retrying import REPLACEMENTS, access_errors


def entries(corpus: Corpus, table: Table) -> dict[str, DataFile]:
    """Return a table's data files at ``ref``, by name in the store."""
    head = corpus.head(table)
    if head is None:
        return {}
    files = corpus.with_retries(
        f"files of {table.name()[-1]}", lambda: list(table.scan(snapshot_id=head.snapshot_id).plan_files())
    )
    return {corpus.store.name_of(task.file.file_path): task.file for task in files}


def replace_files(corpus: Corpus, name: str, new: Mapping[str, str | None], record: Record) -> bool:
    """Replace data files in one snapshot with a record.

    Args:
        new: for the name of each data file that goes, that of the one that comes, or None.

    Returns:
        False if one of the files that should go is no longer in the table: others have committed, and what
        is to be done has to be found out again.

    Raises:
        CommitFailedException: others kept committing to this table and won every time.
    """
    for attempt in REPLACEMENTS.attempts(f"replacement of {len(new)} files of {corpus.name}.{name}"):
        table = corpus.table(name)
        assert table is not None
        there = entries(corpus, table)
        if not new.keys() <= there.keys():
            return False
        with attempt, access_errors(), table.transaction() as transaction:
            came = [corpus.store.uri(file) for file in new.values() if file]
            added = parquet_files_to_data_files(table.io, transaction.table_metadata, iter(came))
            properties = properties_of(table, corpus.head(table), record)
            update = transaction.update_snapshot(properties, branch=corpus.ref)
            with update.overwrite() as overwrite:
                for old in new:
                    overwrite.delete_data_file(there[old])
                for file in added:
                    overwrite.append_data_file(file)
    return True
