"""Detection and messages of a full disk."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator

from rasterloom.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, one's quota used up, a file at its limit


def is_full(error: BaseException | None) -> bool:
    """Return whether an error or its cause is a full disk's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(place: str) -> str:
    """Return the message for whoever wrote to ``place``."""
    return (
        f"{place}: no space is left on this disk, or of your quota: make room and run the same command "
        f"again; what was finished is kept"
    )


@contextlib.contextmanager
def temporary_disk(folder: str) -> Iterator[None]:
    """Turn a full disk into a StorageError that names another.

    Args:
        folder: for temporary files.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            hint = "make room, or set TMPDIR to a folder on another disk"
            raise StorageError(
                f"{folder}: no space is left for temporary files, or of your quota: {hint}, and run the same "
                f"command again; what was finished is kept"
            ) from None
        raise


@contextlib.contextmanager
def full_disk_errors(place: str) -> Iterator[None]:
    """Turn the error of a full disk into a StorageError with advice."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageError(advice(place)) from None
        raise
