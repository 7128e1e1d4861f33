"""Check of a local workspace's catalog, an SQLite file."""

import sqlite3
from contextlib import closing
from pathlib import Path

from rasterloom.errors import StorageUnusable
from rasterloom.storage.layout import ANY_METADATA

WAY_OUT = (
    "restore the file from a backup, or name another workspace in the recipe; "
    "the tables beside it are untouched"
)
LOCKED_S = 5.0  # to wait for a writer; then the file is taken for intact
DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def is_there(file: Path) -> bool:
    """True if there is a catalog. One that is being made counts as none.

    Raises:
        StorageUnusable: the workspace has tables, which only a catalog can have made, but the file is missing
            or empty.
    """
    if file.exists() and file.stat().st_size:
        return True
    made = next(file.parent.glob(ANY_METADATA), None)
    if made:
        state = "is empty" if file.exists() else "is missing"
        raise StorageUnusable(
            f"the catalog {file} {state}, although {made.parents[2]} has tables", hint=WAY_OUT
        )
    return False


def check_intact(file: Path) -> None:
    """Read a catalog through, and write nothing.

    Raises:
        StorageUnusable: it is cut short, damaged, or something else.
    """
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=LOCKED_S, uri=True)) as connection:
            (problem,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGED:
            return  # locked, or not to be read: whoever opens it says so
        problem = str(error)
    if problem != "ok":
        said = " ".join(problem.split())
        raise StorageUnusable(f"the catalog {file} is damaged ({said})", hint=WAY_OUT)
