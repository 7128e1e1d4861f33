"""What differs between two versions of a table: rows added, removed, and changed, by key and column."""

import tempfile
from dataclasses import dataclass

import duckdb
import pyarrow.dataset as pads

from rasterloom.versions.tables import Corpus

KEYS = {"tokens": ("target", "key")}  # what tells rows apart where the key alone does not
UNREAD = ("image", "thumbnail")  # pictures: that they differ shows in sha256, size and format
SEED = "rasterloom.diff"  # keys are digests: the order of a digest of theirs is random, and always the same
MEMORY = "1GB"  # for the join; what does not fit goes to the disk


@dataclass(frozen=True)
class Diff:
    """How version B of a table differs from version A."""

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

    Files that both versions have are not read. The others are joined by key, on digests of their values:
    the join takes no more than ``memory``, whatever the number of rows. Values are the same if they are in
    every digit; two null values are. Of pictures that are stored another way (``jpeg_quality``) nothing shows
    but their size.

    Args:
        examples: keys to return of each kind.
        memory: most that the join takes in memory, in DuckDB's words.
    """
    files_a, files_b = ({f.name: f.rows for f in corpus.files(table)} for corpus in (a, b))
    only_a, only_b = sorted(files_a.keys() - files_b.keys()), sorted(files_b.keys() - files_a.keys())
    data_a, data_b = _dataset(a, only_a or list(files_a)), _dataset(b, only_b or list(files_b))
    names_a, names_b = ((d.schema.names if d else []) for d in (data_a, data_b))
    keys = KEYS.get(table, ("key",))
    compared = [n for n in names_a if n in names_b and n not in (*keys, *UNREAD)]
    differs = {c: f'a.here AND b.here AND a."{c}" IS DISTINCT FROM b."{c}"' for c in compared}
    kinds = {
        "added": "a.here IS NULL",
        "removed": "b.here IS NULL",
        "changed": " OR ".join(f"({rule})" for rule in differs.values()) or "false",
    }
    rules = [*kinds.values(), *differs.values()]
    join = f"FROM a FULL JOIN b ON {' AND '.join(f'a.{k} = b.{k}' for k in keys)}"
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{memory}'; SET temp_directory = '{spill}'")
        db.execute("SET preserve_insertion_order = false")
        _view(db, "a", data_a, only_a, keys, compared)
        _view(db, "b", data_b, only_b, keys, compared)
        totals = ", ".join(f"count(*) FILTER ({rule})" for rule in rules)
        counts: list[int] = list(db.execute(f"SELECT {totals} {join}").fetchall()[0])
        for (kind, rule), number in zip(kinds.items(), counts, strict=False):
            key = f"coalesce(a.key, b.key) AS k {join} WHERE {rule}"
            query = f"SELECT k FROM (SELECT DISTINCT {key}) ORDER BY md5(k || '{SEED}') LIMIT ?"
            rows = db.execute(query, [examples]).fetchall() if number else []
            found[kind] = [row[0] for row in rows]
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


def _view(
    db: duckdb.DuckDBPyConnection,
    name: str,
    data: pads.Dataset | None,
    files: list[str],
    keys: tuple[str, ...],
    compared: list[str],
) -> None:
    """Make a view of keys and digests of values; an empty one if there is no file to read."""
    columns = ", ".join([*keys, *(f'hash("{c}") AS "{c}"' for c in compared), "true AS here"])
    if data is None or not files:
        empty = [*(f"NULL::{'INTEGER' if k == 'target' else 'VARCHAR'} AS {k}" for k in keys)]
        empty += [f'NULL::UBIGINT AS "{c}"' for c in compared]
        db.execute(f"CREATE VIEW {name} AS SELECT {', '.join([*empty, 'true AS here'])} WHERE false")
        return
    db.register(f"files_{name}", data)
    db.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM files_{name}")
