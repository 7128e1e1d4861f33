"""SQL queries on the tables of a corpus, by DuckDB. No image is read."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from rasterloom.schema import StepKind
from rasterloom.sources import failure
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.record import Record

BINS = 40
MEMORY = "2GB"  # for joins and counts; what does not fit goes to the disk
SAMPLE = 2_000_000  # about so many images, if there are more, say what the quantiles are
ORIGINS = 40  # licences and sources that are named
UNNAMED = "not known"  # a licence or a source that none is told of
FAILED = "failed: "  # begins the reason of a pair without an image, and of an image without tokens


class Tables:
    """Tables at given snapshots, open for SQL under their names.

    To be used in a ``with`` statement, which closes them.
    """

    def __init__(self, corpus: Corpus, snapshots: dict[str, int], memory: str = MEMORY) -> None:
        self.corpus = corpus
        self.snapshots = snapshots
        self.memory = memory
        self.data: dict[str, pads.Dataset] = {}
        for name in TABLES:
            files = [f.name for f in corpus.files(name, snapshots[name])] if name in snapshots else []
            if files:
                self.data[name] = corpus.dataset(files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._spill.cleanup()

    @cached_property
    def _spill(self) -> "tempfile.TemporaryDirectory[str]":
        """Private folder for DuckDB's temporary files, whose names are predictable."""
        return tempfile.TemporaryDirectory(prefix="rasterloom-report-", ignore_cleanup_errors=True)

    @property
    def _by_arrow(self) -> bool:
        """True where DuckDB's reader would miss files or see a glob."""
        store = self.corpus.store
        return store.is_s3 or any(letter in store.path() for letter in "*?[\\")

    @cached_property
    def _db(self) -> Any:
        import duckdb  # heavy

        db = duckdb.connect(config={"temp_directory": self._spill.name, "memory_limit": self.memory})
        db.execute("SET preserve_insertion_order = false")  # every query that needs an order names it
        for name, data in self.data.items():
            if self._by_arrow:
                db.register(name, data)
            else:  # DuckDB's own reader takes a fifth of the time for small row groups
                files = ", ".join(f"'{_escaped(path)}'" for path in data.files)
                # By name DuckDB holds the footers of all files, 0.3 GiB of images a million rows.
                union = str(not _same_columns(db, files)).lower()
                options = f"union_by_name = {union}, hive_partitioning = false"
                db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}], {options})")
        return db

    @cached_property
    def measured(self) -> list[str]:
        """Scores of every fetched image: columns ``x<i>`` of a table ``measured``, beside ``kept``.

        Quantiles are of its rows that are ``sampled``, as DuckDB holds all values for them in memory.
        The tables are joined once, into this narrow one that every distribution is then counted from.
        """
        if not self.has("images"):
            return []
        values = {"short side (px)": "least(original_width, original_height)"}
        if self.has("scores"):
            columns = (f for f in self.data["scores"].schema if f.name not in ("key", "shard"))
            values |= {f.name: quoted(f.name) for f in columns if str(f.type) in ("double", "float")}
        every = max(1, self.number("SELECT count(*) FROM images") // SAMPLE)
        numbers = ", ".join(f"({value})::DOUBLE AS x{i}" for i, value in enumerate(values.values()))
        self._db.execute(
            f"""
            CREATE TEMP TABLE measured AS
            SELECT {"kept" if self.has("selection") else "true AS kept"},
              hash(images.key) % {every} = 0 AS sampled, {numbers} FROM images
            {"JOIN selection USING (key)" if self.has("selection") else ""}
            {"LEFT JOIN scores USING (key)" if self.has("scores") else ""} WHERE status = 'ok'
            """
        )
        return list(values)

    def has(self, *names: str) -> bool:
        """True if all of these tables have rows."""
        return all(name in self.data for name in names)

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a query over the tables, and return its rows."""
        answer = self._db.execute(query, list(parameters))
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def attach(self, name: str, file: Path) -> None:
        """Open a database in a file, for tables larger than the memory."""
        self._db.execute(f"ATTACH '{_escaped(str(file))}' AS {name}")

    def register(self, name: str, rows: pa.Table) -> None:
        """Make rows a table of queries."""
        self._db.register(name, rows)

    def interrupt(self) -> None:
        """End the query that runs, from another thread."""
        self._db.interrupt()

    def files_with(self, table: str, keys: list[str]) -> list[str]:
        """Sorted paths of the files with rows of some keys. Only the key column is read."""
        if self._by_arrow:
            hits = self.data[table].to_table(columns=["key", "__filename"], filter=pc.field("key").isin(keys))
            return sorted(pc.unique(hits["__filename"]).to_pylist())
        files = ", ".join(f"'{_escaped(path)}'" for path in self.data[table].files)
        query = f"SELECT DISTINCT filename FROM read_parquet([{files}], filename = true) WHERE key IN ?"
        return sorted(row["filename"] for row in self.sql(query, keys))

    def number(self, query: str, *parameters: Any) -> int:
        (row,) = self.sql(query, *parameters)
        return int(next(iter(row.values())) or 0)


@dataclass(frozen=True)
class Loss:
    """Rows lost at a level of the funnel for one reason."""

    reason: str
    rows: int
    meaning: str = ""


@dataclass(frozen=True)
class Level:
    """Level of the funnel; ``given`` is the sum of ``rows`` and losses."""

    name: str
    rows: int
    given: int
    losses: tuple[Loss, ...] = ()


def _level(name: str, rows: int, given: int, losses: list[Loss], gap: str) -> Level:
    """Level whose unexplained rows are a loss of their own, ``gap``."""
    missing = given - rows - sum(loss.rows for loss in losses)
    if missing:
        losses = [*losses, Loss(gap, missing, "tables of different versions" if missing < 0 else "")]
    return Level(name, rows, given, tuple(sorted(losses, key=lambda loss: (-loss.rows, loss.reason))))


def funnel(tables: Tables, records: Sequence[Record]) -> list[Level]:
    """Funnel from pairs to sequences, as far as there are tables."""
    if not tables.has("images"):
        return []
    outcomes = tables.sql("SELECT status = 'ok' AS ok, error, count(*) AS rows FROM images GROUP BY ALL")
    ok = sum(r["rows"] for r in outcomes if r["ok"])
    total = sum(r["rows"] for r in outcomes)
    pairs = tables.number("SELECT count(*) FROM pairs") if tables.has("pairs") else total
    failures = ((r["error"] or "unknown", r["rows"]) for r in outcomes if not r["ok"])
    failed = [Loss(error, rows, failure.error(error)) for error, rows in failures]
    levels = [Level("pairs", pairs, pairs), _level("fetched", ok, pairs, failed, "not accounted for")]
    if not tables.has("selection"):
        return levels
    reasons = tables.sql("SELECT kept, reason, count(*) AS rows FROM selection GROUP BY ALL")
    kept = sum(r["rows"] for r in reasons if r["kept"])
    dropped = [
        Loss(r["reason"] or "unknown", r["rows"])
        for r in reasons
        if not r["kept"] and not (r["reason"] or "").startswith(FAILED)
    ]
    levels.append(_level("kept", kept, ok, dropped, "not accounted for"))
    for row in token_counts(tables):
        counts = next((r.counts for r in records if r.step == StepKind.CODES.step(row["target"])), {})
        lost = [Loss(k.removeprefix(FAILED), n) for k, n in counts.items() if k.startswith(FAILED)]
        levels.append(_level(f"tokens at {row['target']}", row["sequences"], kept, lost, "not tokenised"))
    return levels


@dataclass(frozen=True)
class Histogram:
    """Histogram in equal bins from ``low`` to ``high``. The outermost bins are open."""

    name: str
    low: float
    high: float
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    unscored: int = 0


def histograms(tables: Tables) -> list[Histogram]:
    """Histograms of scores and short side, selected and dropped images."""
    made = [_histogram(tables, name, f"x{i}") for i, name in enumerate(tables.measured)]
    return [histogram for histogram in made if histogram]


def quantiles(tables: Tables) -> dict[str, tuple[float, float, float]]:
    """Quantiles 0.1, 0.5 and 0.9 of selected images. They are of the scores and the short side."""
    if not tables.measured:
        return {}
    columns = ", ".join(
        f"quantile_cont(CASE WHEN isfinite(x{i}) THEN x{i} END, [0.1, 0.5, 0.9]) AS x{i}"
        for i in range(len(tables.measured))
    )
    (row,) = tables.sql(f"SELECT {columns} FROM measured WHERE kept AND sampled")
    return {name: tuple(row[f"x{i}"]) for i, name in enumerate(tables.measured) if row[f"x{i}"]}


def origins(tables: Tables) -> dict[str, dict[str, int]]:
    """Counts of selected pairs by ``licence`` and by ``source``."""
    found: dict[str, dict[str, int]] = {"licence": {}, "source": {}}
    if not tables.has("pairs"):
        return found
    kept = "JOIN selection USING (key) WHERE kept" if tables.has("selection") else ""
    rows = tables.sql(
        f"""
        SELECT if(grouping(licence) = 0, 'licence', 'source') AS what,
               coalesce(if(grouping(licence) = 0, licence, source), '{UNNAMED}') AS name, count(*) AS rows
        FROM pairs {kept} GROUP BY GROUPING SETS ((licence), (source))
        QUALIFY row_number() OVER (PARTITION BY what ORDER BY rows DESC, name) <= {ORIGINS}
        ORDER BY rows DESC, name
        """
    )
    for row in rows:
        found[row["what"]][row["name"]] = row["rows"]
    return found


def _histogram(tables: Tables, name: str, column: str) -> Histogram | None:
    rows = tables.sql(
        f"""
        WITH placed AS (SELECT kept, sampled, CASE WHEN isfinite({column}) THEN {column} END AS x
                        FROM measured),
        ends AS (SELECT quantile_cont(x, 0.002) AS low, quantile_cont(x, 0.998) AS high
                 FROM placed WHERE sampled)
        SELECT low, high, kept, count(*) AS rows,
          CASE WHEN high > low THEN greatest(0, least({BINS - 1}, floor((x - low) / (high - low) * {BINS})))
               WHEN x IS NOT NULL THEN 0 END AS bin
        FROM placed, ends GROUP BY ALL
        """
    )
    if not rows or rows[0]["low"] is None:
        return None
    bins = {True: [0] * BINS, False: [0] * BINS}
    for row in rows:
        if row["bin"] is not None:
            bins[bool(row["kept"])][int(row["bin"])] += row["rows"]
    unscored = sum(row["rows"] for row in rows if row["bin"] is None)
    return Histogram(name, rows[0]["low"], rows[0]["high"], tuple(bins[True]), tuple(bins[False]), unscored)


def _same_columns(db: Any, files: str) -> bool:
    """True if all files have the same columns. Those of earlier versions may lack some."""
    (kinds,) = db.execute(
        f"""
        SELECT count(DISTINCT columns) FROM (
          SELECT sum(hash(name, type, repetition_type)) AS columns FROM parquet_schema([{files}])
          GROUP BY file_name)
        """
    ).fetchone()
    return bool(kinds == 1)


def _escaped(path: str) -> str:
    return path.replace("'", "''")


def quoted(name: str) -> str:
    """A column's name as SQL takes any."""
    return '"' + name.replace('"', '""') + '"'


def buckets(tables: Tables) -> dict[int, list[dict[str, Any]]]:
    """Buckets of each target, the widest first: ``bucket``, ``w``, ``h``, ``sequences``.

    Text alone comes last, with sides of 0.
    """
    if not tables.has("tokens"):
        return {}
    rows = tables.sql(
        """
        SELECT target, bucket, any_value(width) AS w, any_value(height) AS h, count(*) AS sequences
        FROM tokens GROUP BY target, bucket
        ORDER BY target, CASE WHEN h > 0 THEN w / h END DESC NULLS LAST, w DESC
        """
    )
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["target"], []).append(row)
    return found


def tasks(tables: Tables) -> dict[int, list[dict[str, Any]]]:
    """Tasks of each target, the most frequent first: ``task``, ``sequences``."""
    if not tables.has("tokens"):
        return {}
    rows = tables.sql(
        """
        SELECT target, task, count(*) AS sequences FROM tokens GROUP BY ALL
        ORDER BY target, sequences DESC, task
        """
    )
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["target"], []).append(row)
    return found


def token_counts(tables: Tables) -> list[dict[str, Any]]:
    """Sequences and tokens of each target."""
    if not tables.has("tokens"):
        return []
    return tables.sql(
        """
        SELECT target, count(*) AS sequences, sum(n_tokens)::BIGINT AS tokens, min(n_tokens) AS shortest,
               median(n_tokens) AS middle, max(n_tokens) AS longest, count(DISTINCT bucket) AS buckets
        FROM tokens GROUP BY target ORDER BY target
        """
    )
