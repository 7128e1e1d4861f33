"""Differences between two versions of a table, by key and column."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow.dataset as pads

from rasterloom.errors import StorageError
from rasterloom.utils.private_folders import temporary_folder
from rasterloom.versions.corpus import Corpus

# What tells rows apart where the key alone does not.
KEYS = {"tokens": ("target", "key"), "captions": ("captioner", "name", "number", "key")}
NUMBERS = ("target", "number")  # of these
UNREAD = ("image", "thumbnail")  # images: that they differ shows in sha256, size and format
SEED = "rasterloom.diff"  # keys are digests: the order of a digest of theirs is random, and always the same
MEMORY = "256MB"  # of DuckDB; what does not fit goes to the disk
THREADS = 2  # more need more memory: each joins a part of the rows at a time
BATCH_ROWS = 16_384  # read at a time


@dataclass(frozen=True)
class Diff:
    """Differences of version B from version A."""

    table: str
    rows_a: int
    rows_b: int
    added: int  # rows whose key A does not have
    removed: int
    changed: int  # rows that both have, with another value in some column
    columns: dict[str, int]  # changed rows by column, most first
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    examples: dict[str, list[str]]  # keys of rows "added", "removed" and "changed": a sample, always the same

    @property
    def same(self) -> bool:
        return not (self.added or self.removed or self.changed or self.columns_added or self.columns_removed)


def diff(a: Corpus, b: Corpus, table: str, *, examples: int = 12, memory: str = MEMORY) -> Diff:
    """Compare a table at two versions of a corpus.

    Files that both versions have are not read. The others are read once, few rows at a time, into digests of
    their values in a temporary folder, which are joined by key there: memory is the same whatever the number
    of rows. Values are the same if they are in every digit; two null values are. Of images that are stored
    another way (``jpeg_quality``) nothing shows but their size.

    Args:
        examples: keys to return of each kind.
        memory: most that DuckDB takes in memory, in its words.

    Raises:
        StorageError: the temporary folder has no room for the digests.
    """
    files_a, files_b = ({f.name: f.rows for f in corpus.files(table)} for corpus in (a, b))
    only_a, only_b = sorted(files_a.keys() - files_b.keys()), sorted(files_b.keys() - files_a.keys())
    data_a, data_b = _dataset(a, only_a or list(files_a)), _dataset(b, only_b or list(files_b))
    names_a, names_b = ((d.schema.names if d else []) for d in (data_a, data_b))
    keys = KEYS.get(table, ("key",))
    compared = [n for n in names_a if n in names_b and n not in (*keys, *UNREAD)]
    differs = [f'a.here AND b.here AND a."{c}" IS DISTINCT FROM b."{c}"' for c in compared]
    changes = " OR ".join(f"({rule})" for rule in differs) or "false"
    rules = ["a.here IS NULL", "b.here IS NULL", changes, *differs]
    with _scratch(memory) as db:
        _digest(db, "a", data_a if only_a else None, keys, compared)
        _digest(db, "b", data_b if only_b else None, keys, compared)
        is_so = ", ".join(f"{rule} AS is_{i}" for i, rule in enumerate(rules))
        join = f"a FULL JOIN b ON {' AND '.join(f'a.{k} = b.{k}' for k in keys)}"
        differing = f"SELECT coalesce(a.key, b.key) AS key, {is_so} FROM {join} WHERE is_0 OR is_1 OR is_2"
        db.execute(f"CREATE TABLE c AS {differing}")
        totals = ", ".join(f"count(*) FILTER (is_{i})" for i in range(len(rules)))
        counts: list[int] = list(db.execute(f"SELECT {totals} FROM c").fetchall()[0])
        found = {}
        for i, kind in enumerate(("added", "removed", "changed")):
            query = f"SELECT key FROM (SELECT DISTINCT key FROM c WHERE is_{i}) ORDER BY md5(key || '{SEED}')"
            found[kind] = [key for (key,) in db.execute(f"{query} LIMIT {examples}").fetchall()]
    added, removed, changed, *by_column = counts
    most = sorted(zip(compared, by_column, strict=True), key=lambda item: -item[1])
    return Diff(
        table,
        rows_a=sum(files_a.values()),
        rows_b=sum(files_b.values()),
        added=added,
        removed=removed,
        changed=changed,
        columns={column: number for column, number in most if number},
        columns_added=tuple(n for n in names_b if n not in names_a) if names_a else (),
        columns_removed=tuple(n for n in names_a if n not in names_b) if names_b else (),
        examples=found,
    )


def _dataset(corpus: Corpus, files: list[str]) -> pads.Dataset | None:
    return corpus.dataset(files) if files else None


@contextlib.contextmanager
def _scratch(memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in a temporary folder."""
    try:
        with tempfile.TemporaryDirectory() as folder, duckdb.connect(f"{folder}/diff.db") as db:
            db.execute(f"SET memory_limit = '{memory}'; SET threads = {THREADS}")
            db.execute(f"SET temp_directory = '{folder}'; SET preserve_insertion_order = false")
            yield db
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        said = str(error).splitlines()[0]
        way_out = "make room there, or set TMPDIR to a folder that has it"
        raise StorageError(f"{temporary_folder()}: {said}: {way_out}") from None


def _digest(
    db: duckdb.DuckDBPyConnection,
    name: str,
    data: pads.Dataset | None,
    keys: tuple[str, ...],
    compared: list[str],
) -> None:
    """Create a table of keys and digests of values, maybe empty."""
    if data is None:
        types = [*(f"{key} {'INTEGER' if key in NUMBERS else 'VARCHAR'}" for key in keys)]
        types += [f'"{c}" UBIGINT' for c in compared]
        db.execute(f"CREATE TABLE {name} ({', '.join([*types, 'here BOOLEAN'])})")
        return
    rows = data.scanner(
        [*keys, *compared],
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
        cache_metadata=False,
    ).to_reader()
    columns = ", ".join([*keys, *(f'hash("{c}") AS "{c}"' for c in compared), "true AS here"])
    db.register("rows", rows)
    db.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM rows")
    db.unregister("rows")
