"""Programs by which other libraries read a corpus's tables."""

import re
from typing import Any
from urllib.parse import urlsplit

from rasterloom.errors import VersionError
from rasterloom.storage import s3
from rasterloom.utils.redact import masked
from rasterloom.versions.corpus import CATALOG, TABLES, Corpus

_SECRET = re.compile(r"token|credential|secret|password|access-key|session", re.IGNORECASE)
_OPEN = """\
from pyiceberg.catalog import load_catalog

{note}catalog = load_catalog({name!r}, **{properties})
table = catalog.load_table({identifier!r})
snapshot = {snapshot}  # {ref}
"""
_READ = {
    "pyiceberg": """
rows = table.scan(snapshot_id=snapshot).to_arrow()  # row_filter=, selected_fields= and limit= read less
print(rows.num_rows, rows.column_names)
""",
    "duckdb": """
import duckdb

rows = table.scan(snapshot_id=snapshot).to_arrow_batch_reader()  # a batch at a time
print(duckdb.sql("SELECT count(*) FROM rows"))
""",
    "polars": """
import polars

rows = polars.scan_iceberg(table, snapshot_id=snapshot{options})  # reads the columns that are asked for
print(rows.select(polars.len()).collect())
""",
    "ray": """
import ray{imports}

files = [task.file.file_path for task in table.scan(snapshot_id=snapshot).plan_files()]
rows = ray.data.read_parquet({files})  # in parallel over the cluster; columns= reads less
print(rows.count())
""",
}


def reader_program(corpus: Corpus, table: str, library: str) -> str:
    """Return a program that reads a table at the corpus's version.

    It holds no secrets: credentials come from the environment, as Rasterloom's own.

    Args:
        table: of ``TABLES``.
        library: pyiceberg, duckdb, polars or ray.

    Raises:
        VersionError: the version has no such table.
    """
    snapshot = corpus.snapshot_id(table)
    if snapshot is None:
        there = ", ".join(name for name in TABLES if corpus.snapshot_id(name) is not None) or "none yet"
        raise VersionError(f"{corpus.name}@{corpus.ref} has no table {table}; it has {there}")
    properties = corpus.connection()
    hidden = sorted(name for name, value in properties.items() if _is_secret(name, str(value)))
    variables = ", ".join(map(_variable, hidden))
    opened = _OPEN.format(
        note=f"# Not printed: {', '.join(hidden)}; set {variables}\n" if hidden else "",
        name=CATALOG,
        properties={name: value for name, value in properties.items() if name not in hidden},
        identifier=".".join(corpus.identifier(table)),
        snapshot=snapshot,
        ref=f"{corpus.name}@{corpus.ref}",
    )
    return opened + _READ[library].format(**_places(corpus))


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name)) or masked(value) != value


def _variable(name: str) -> str:
    """Return the variable by which pyiceberg takes a property of the catalog."""
    return f"PYICEBERG_CATALOG__{CATALOG}__{name.replace('.', '__').replace('-', '_')}".upper()


def _places(corpus: Corpus) -> dict[str, Any]:
    """Return what Polars and Ray need to find files on S3.

    They take nothing from the catalog.
    """
    if not corpus.store.is_s3:
        return {"options": "", "imports": "", "files": "files"}
    address, region = s3.endpoint(), s3.region()
    options = {"aws_region": region} | ({"aws_endpoint_url": address} if address else {})
    if address and address.startswith("http:"):
        options["aws_allow_http"] = "true"
    parts = urlsplit(address or "")
    given = f", endpoint_override={parts.netloc!r}, scheme={parts.scheme!r}" if address else ""
    files = "[file.removeprefix('s3://') for file in files]"
    return {
        "options": f", storage_options={options}",
        "imports": "\nfrom pyarrow.fs import S3FileSystem",
        "files": f"{files}, filesystem=S3FileSystem(region={region!r}{given})",
    }
