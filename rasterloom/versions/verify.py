"""Verification of the files of a version."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile as IcebergFile

from rasterloom.errors import one_line
from rasterloom.utils.parallel import Advance, adding, silent
from rasterloom.versions.corpus import TABLES, Corpus


@dataclass(frozen=True)
class Problem:
    """Fault of a table's file; ``file`` is its URI."""

    table: str
    file: str
    what: str


@dataclass(frozen=True)
class Standing:
    """Intact part of a table."""

    table: str
    snapshot_id: int
    files: int  # of the snapshot
    rows: int
    good_files: int
    good_rows: int


def verify(
    corpus: Corpus,
    *,
    deep: bool = True,
    tables: tuple[str, ...] = TABLES,
    advance: Advance = silent,
) -> tuple[list[Standing], list[Problem]]:
    """Check every file of the version that a corpus is seen at.

    Every file must be there, have the size and the rows that the commit says, and, if ``deep``, be readable
    to its last page; the checksums that the pages carry are checked then.

    Args:
        advance: called with the number of files checked so far.

    Returns:
        What stands of each table, and what is wrong, file by file.
    """
    standing, problems = [], []
    add = adding(advance)
    for name in tables:
        try:
            table = corpus.table(name)
            head = corpus.head(table)
            if table is None or head is None:
                continue
            found = [task.file for task in table.scan(snapshot_id=head.snapshot_id).plan_files()]
        except Exception as error:  # whatever a broken metadata file does to its reader
            problems.append(Problem(name, "", f"its metadata cannot be read: {one_line(error, limit=300)}"))
            continue
        good = rows = 0
        for file in sorted(found, key=lambda f: f.file_path):
            wrong = [Problem(name, file.file_path, what) for what in _problems(corpus, file, deep)]
            problems += wrong
            good += not wrong
            rows += 0 if wrong else file.record_count
            add(1)
        total = sum(f.record_count for f in found)
        standing.append(Standing(name, head.snapshot_id, len(found), total, good, rows))
    return standing, problems


def _problems(corpus: Corpus, file: IcebergFile, deep: bool) -> Iterator[str]:
    path = corpus.store.path(corpus.store.name_of(file.file_path))
    try:
        with corpus.store.filesystem.open_input_file(path) as source:
            if source.size() != file.file_size_in_bytes:
                yield f"has {source.size():,} bytes, {file.file_size_in_bytes:,} were committed"
                return
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            if parquet.metadata.num_rows != file.record_count:
                yield f"has {parquet.metadata.num_rows:,} rows, {file.record_count:,} were committed"
                return
            if deep:
                for group in range(parquet.num_row_groups):
                    parquet.read_row_group(group)
    except FileNotFoundError:
        yield "is not there"
    except (OSError, pa.ArrowException) as error:
        yield f"cannot be read: {one_line(error, limit=300)}"
