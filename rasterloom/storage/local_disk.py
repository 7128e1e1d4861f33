"""A disk that is full: knowing it, and saying it in one line."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator

from rasterloom.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, one's quota used up, a file at its limit


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no room on a disk, or came of one that does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(place: str) -> str:
    """What to tell whoever wrote to ``place``."""
    return (
        f"{place}: no space is left on this disk, or of your quota: make room and run the same command "
        f"again; what was finished is kept"
    )


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """Turn the error of a full disk into a StorageError that names the place and the way out."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageError(advice(place)) from None
        raise
