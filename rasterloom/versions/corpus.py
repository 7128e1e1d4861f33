"""Iceberg tables of a corpus and the data files of their snapshots."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.utils.config import Config, merge_config

from rasterloom.recipe.recipe import Recipe
from rasterloom.storage import layout, s3
from rasterloom.storage.layout import Layout
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.versions.catalog_file import check_intact, is_there
from rasterloom.versions.retrying import with_retries

T = TypeVar("T")
MAIN = "main"
CATALOG = "rasterloom"  # its name for pyiceberg, and in the names of its variables
LOCKED_S = 60  # that a writer of the SQLite catalog waits for the others
TABLES = ("pairs", "images", "scores", "selection", "captions", "tokens")


def s3_properties() -> dict[str, str]:
    """Return the S3 properties that pyiceberg does not read from the environment."""
    properties = {"s3.region": s3.region()}
    if endpoint := s3.endpoint():
        properties["s3.endpoint"] = endpoint
    return properties


def _sqlite_catalog(file: Path, warehouse: str) -> Catalog:
    from sqlalchemy import URL  # heavy: 0.1 s of each worker, which needs no catalog
    from sqlalchemy.exc import OperationalError  # heavy

    def load() -> Catalog:
        url = URL.create("sqlite", database=str(file), query={"timeout": str(LOCKED_S)})
        return load_catalog(CATALOG, type="sql", uri=str(url), warehouse=warehouse)

    try:
        return load()
    except OperationalError:  # another driver made its tables between our look and our attempt
        return load()


@dataclass(frozen=True)
class Corpus:
    """Namespace of tables at a ``ref``: a branch, tag or snapshot id.

    A branch can be committed to; ``main`` is the one that there always is.
    """

    name: str
    store: Store
    catalog_properties: tuple[tuple[str, str], ...] = ()
    ref: str = MAIN

    @classmethod
    def of(cls, recipe: Recipe) -> "Corpus":
        name, _, ref = recipe.corpus.partition("@")
        return cls(name, Store(recipe.workspace), tuple(sorted(recipe.catalog.items())), ref or MAIN)

    @property
    def layout(self) -> Layout:
        """Names of the corpus's files in the store."""
        return Layout(self.name)

    @cached_property
    def catalog(self) -> Catalog:
        """Catalog of the recipe, by default an SQLite file in the workspace.

        Its name is ``rasterloom``, so that pyiceberg takes what must not stand in a recipe from variables
        such as ``PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL``.
        """
        if not self.catalog_properties:
            if self.has_catalog:
                check_intact(self._catalog_file)
            self._catalog_file.parent.mkdir(parents=True, exist_ok=True)
            return _sqlite_catalog(self._catalog_file, self.store.uri(""))
        given = self.connection()
        properties: dict[str, Any] = dict(merge_config(Config().get_catalog_config(CATALOG) or {}, given))
        is_http = properties.get("uri", "").startswith("http")  # which is REST where no type is named
        if properties.get("type", "rest" if is_http else "") == "rest":
            from rasterloom.versions.rest_catalog import TimedRestCatalog  # heavy

            return TimedRestCatalog(CATALOG, **properties)
        return load_catalog(CATALOG, **given)

    def connection(self) -> dict[str, Any]:
        """Return what pyiceberg's ``load_catalog`` takes to open the catalog, beside the environment's."""
        if self.catalog_properties:
            return {**s3_properties(), **dict(self.catalog_properties)}
        from sqlalchemy import URL  # heavy: 0.1 s of each worker, which needs no catalog

        return {"type": "sql", "uri": str(URL.create("sqlite", database=str(self._catalog_file)))}

    @property
    def has_catalog(self) -> bool:
        """True if the catalog exists: after a local workspace's first commit."""
        return bool(self.catalog_properties) or is_there(self._catalog_file)

    @property
    def _catalog_file(self) -> Path:
        return Path(self.store.path()) / layout.CATALOG

    def location(self, table: str) -> str | None:
        """Return the location of a new table; None where the catalog chooses."""
        return None if self.catalog_properties else self.store.uri(self.layout.table(table))

    def identifier(self, table: str) -> tuple[str, str]:
        return (self.name, table)

    def table(self, name: str) -> Table | None:
        """Open a table; None if nothing was ever committed to it."""
        if not self.has_catalog:
            return None
        try:
            return self.with_retries(f"table {name}", lambda: self.catalog.load_table(self.identifier(name)))
        except NoSuchTableError:
            return None

    @property
    def is_remote(self) -> bool:
        """True if files or catalog lie behind a network."""
        return self.store.is_s3 or bool(self.catalog_properties)

    def with_retries(self, what: str, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; a remote corpus is tried as ``NETWORK`` says."""
        return with_retries(what, work) if self.is_remote else work()

    def head(self, table: Table | None) -> Snapshot | None:
        """Return a table's snapshot at ``ref``, or None."""
        if table is None:
            return None
        if self.ref == MAIN:
            return table.current_snapshot()
        if self.ref in table.refs():
            return table.snapshot_by_name(self.ref)
        return table.snapshot_by_id(int(self.ref)) if self.ref.isdecimal() else None

    def snapshot_id(self, table: str) -> int | None:
        """Return the id of a table's snapshot at ``ref``, or None."""
        snapshot = self.head(self.table(table))
        return snapshot.snapshot_id if snapshot else None

    def files(self, table: str, snapshot_id: int | None = None, where: str = "") -> list[DataFile]:
        """Return a snapshot's data files in the order of their shards.

        ``where`` is an Iceberg row filter, such as ``target == 512``, that prunes partitions.
        """
        opened = self.table(table)
        snapshot_id = snapshot_id or self.snapshot_id(table)
        if opened is None or snapshot_id is None:
            return []
        scan = opened.scan(row_filter=where or AlwaysTrue(), snapshot_id=snapshot_id)
        found = []
        for task in self.with_retries(f"files of {table}", lambda: list(scan.plan_files())):
            values = tuple(str(task.file.partition[i]) for i in range(len(task.file.partition)))
            found.append(DataFile(self.store.name_of(task.file.file_path), task.file.record_count, values))
        return sorted(found, key=lambda f: (f.name.rpartition("/")[2], f.name))

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        *,
        snapshot_id: int | None = None,
        where: str = "",
        limit: int | None = None,
    ) -> pa.Table:
        """Read a snapshot into memory; an empty table if there is none."""
        opened = self.table(table)
        snapshot_id = snapshot_id or self.snapshot_id(table)
        if opened is None or snapshot_id is None:
            return pa.table({})
        scan = opened.scan(
            row_filter=where or AlwaysTrue(),
            selected_fields=tuple(columns) if columns else ("*",),
            snapshot_id=snapshot_id,
            limit=limit,
        )
        found: pa.Table = self.with_retries(f"rows of {table}", scan.to_arrow)
        return found.select(columns) if columns else found

    def dataset(self, files: list[str]) -> pads.Dataset:
        """A pyarrow dataset of Parquet files named in the store."""
        return pads.dataset(
            [self.store.path(f) for f in files], filesystem=self.store.filesystem, format="parquet"
        )
