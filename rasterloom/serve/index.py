"""Index of a corpus: one row an image, joined once, which filters are answered from."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rasterloom.errors import RecipeError
from rasterloom.filtering.rule import DERIVED, IMAGE_COLUMNS, first_line, with_derived
from rasterloom.filtering.selection import embedding_column
from rasterloom.report.queries import Tables, quoted
from rasterloom.schema import IMAGES, SCORES
from rasterloom.serve.stored_images import ROWS_A_FILE, StoredImages
from rasterloom.versions.corpus import Corpus

PATIENCE_S = 30  # that a query may take
DIGITS = 19  # of a place, fewer than these
NAMED = 200  # reasons, sources and buckets that a filter offers
OF_TOKENS = "(SELECT key, list(target || ': ' || bucket ORDER BY target) AS buckets FROM tokens GROUP BY key)"
OF_COPIES = """(SELECT duplicate_of AS key, count(*) AS copies FROM selection
                WHERE duplicate_of IS NOT NULL GROUP BY duplicate_of)"""
SQL_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT"}  # of the columns of images
# What stands for a column of a table that there is not.
ABSENT = {
    "reason": "if(i.status = 'ok', NULL, 'failed: ' || i.error)",
    "kept": "NULL::BOOLEAN",
    "copies": "NULL::BIGINT",
    "buckets": "NULL::VARCHAR[]",
}


@dataclass(frozen=True)
class Option:
    """Value that a filter offers, with its rows."""

    value: str
    rows: int


@dataclass
class Index:
    """Images of a version, open for filters. One query runs at a time."""

    tables: Tables
    images: StoredImages
    columns: pa.Schema
    """Columns of the scores that are no lists, as rules take them."""
    embedding: str | None
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest finite value of each column of numbers."""
    options: dict[str, list[Option]] = field(default_factory=dict)
    """Values of ``reason``, ``source`` and ``bucket``, the most frequent first."""
    rows: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def scores(self) -> list[str]:
        """Names of the scores that are numbers."""
        return [column.name for column in self.columns if pa.types.is_floating(column.type)]

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a query over ``entries``, which has the columns of keep rules.

        Raises:
            RecipeError: a rule in it fails on an image, or takes longer than `PATIENCE_S`.
        """
        with self._lock:
            too_long = threading.Timer(PATIENCE_S, self.tables.interrupt)
            too_long.start()
            try:
                return self.tables.sql(query, *parameters)
            except duckdb.InterruptException:
                raise RecipeError(f"no answer in {PATIENCE_S} s: ask for less") from None
            except duckdb.Error as error:
                raise RecipeError(f"the rule fails on an image: {first_line(error)}") from None
            finally:
                too_long.cancel()

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the entry of an image's key, if there is one."""
        found = self.sql("SELECT * FROM entries WHERE key = ?", key)
        return found[0] if found else None

    def place_of(self, key: str, hint: str = "") -> int | None:
        """Return the place of an image.

        Args:
            hint: where it may be, by a page that may be of an earlier version; saves a look at all keys.
        """
        place = read_place(hint)
        if place is not None and self.sql("SELECT 1 FROM entries WHERE _place = ? AND key = ?", place, key):
            return place
        found = self.find(key)
        return found["_place"] if found else None

    @cached_property
    def embedded(self) -> int:
        """Length of an embedding, 0 without any. Makes the table ``embeddings``."""
        with self._lock:
            if self.embedding is None:
                return 0
            name = quoted(self.embedding)
            length = self.tables.number(f"SELECT len({name}) FROM scores WHERE {name} IS NOT NULL LIMIT 1")
            if length:
                self.tables.sql(
                    f"""CREATE TABLE browse.embeddings AS
                    SELECT _place, {name}::FLOAT[{length}] AS embedding
                    FROM scores JOIN entries USING (key) WHERE len({name}) = {length}"""
                )
            return length


def read_place(text: str) -> int | None:
    """Read a place in an address. None if it is none."""
    return int(text) if text.isdecimal() and len(text) < DIGITS else None


@contextmanager
def opened(corpus: Corpus, snapshots: dict[str, int]) -> Iterator[Index]:
    """Make the index of a version in a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="rasterloom-serve-", ignore_cleanup_errors=True) as folder,
        Tables(corpus, snapshots) as tables,
    ):
        if not tables.has("images"):
            raise RecipeError("there are no images yet", needs="images")
        index = _index_of(tables, Path(folder))
        _look_over(index)
        yield index


def _index_of(tables: Tables, folder: Path) -> Index:
    """Join the tables, and derive the other columns of keep rules: ``entries``."""
    schema = tables.data["scores"].schema if tables.has("scores") else SCORES
    fields = [found for found in schema if found.name not in SCORES.names]
    scalars = pa.schema([found for found in fields if not pa.types.is_list(found.type)])
    tables.attach("browse", folder / "index.duckdb")
    tables.register("places", places_of(tables))
    tables.sql(f"CREATE TABLE browse.joined AS {_joined(tables, scalars.names)}")
    tables.sql("CREATE VIEW entries AS " + with_derived("browse.joined"))
    return Index(
        tables,
        StoredImages(tables.data["images"].files, tables.corpus.store),
        scalars,
        embedding_column(pa.schema(fields)),
    )


def places_of(tables: Tables) -> pa.Table:
    """Keys of images and the place of each: the number of its file times `ROWS_A_FILE`, plus its row."""
    found = tables.data["images"].to_table(columns=["key", "__fragment_index"])
    files = found["__fragment_index"].to_numpy().astype(np.int64)
    rows = np.arange(len(files)) - np.searchsorted(files, files)
    return pa.table({"key": found["key"], "place": files * ROWS_A_FILE + rows})


def _joined(tables: Tables, scores: list[str]) -> str:
    """Query for one row an image. Columns of missing tables are null.

    Columns that no rule speaks of begin with ``_``, apart from scores of any name.
    """
    there = set(tables.data["images"].schema.names)
    columns = [
        f"i.{name}" if name in there else f"NULL::{SQL_TYPES[str(IMAGES.field(name).type)]} AS {name}"
        for name in IMAGE_COLUMNS
    ]
    joins = ["images i JOIN places p USING (key)"]
    parts = (
        ("scores", "scores", "s", [quoted(name) for name in scores]),
        ("selection", "selection", "l", ["kept", "reason", "duplicate_of"]),
        ("selection", OF_COPIES, "c", ["copies"]),
        ("pairs", "pairs", "r", ["source"]),
        ("tokens", OF_TOKENS, "t", ["buckets"]),
    )
    for table, rows, alias, names in parts:
        if tables.has(table):
            joins.append(f"{rows} {alias} USING (key)")
            columns += [
                f"{alias}.{name}" if table == "scores" else f"{alias}.{name} AS _{name}" for name in names
            ]
        else:
            columns += [f"{ABSENT.get(name, 'NULL::VARCHAR')} AS _{name}" for name in names]
    return f"SELECT p.place AS _place, {', '.join(columns)} FROM {' LEFT JOIN '.join(joins)}"


def _look_over(index: Index) -> None:
    """Count the rows and the values that filters offer."""
    index.rows = index.tables.number("SELECT count(*) FROM entries")
    for name in ("reason", "source", "bucket"):
        value = "unnest(_buckets)" if name == "bucket" else f"_{name}"
        found = index.tables.sql(
            f"""SELECT value, count(*) AS rows FROM (SELECT {value} AS value FROM entries)
            WHERE value IS NOT NULL GROUP BY value ORDER BY rows DESC, value LIMIT {NAMED}"""
        )
        index.options[name] = [Option(row["value"], row["rows"]) for row in found]
    names = [*index.scores, *DERIVED]
    ends = ", ".join(
        f"min({quoted(name)}) FILTER (isfinite({quoted(name)}::DOUBLE)), "
        f"max({quoted(name)}) FILTER (isfinite({quoted(name)}::DOUBLE))"
        for name in names
    )
    (row,) = index.tables.sql(f"SELECT [{ends}]::DOUBLE[] AS ends FROM entries")
    for number, name in enumerate(names):
        low, high = row["ends"][2 * number : 2 * number + 2]
        if low is not None:
            index.bounds[name] = (low, high)
