"""Trying again what a network or a busy server spoilt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyiceberg.exceptions import (
    CommitStateUnknownException,
    ForbiddenError,
    OAuthError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
)

from rasterloom.errors import one_line
from rasterloom.storage import s3
from rasterloom.storage.local_disk import is_full
from rasterloom.storage.store import StorageError

# OSError: whatever breaks a connection, pyarrow's errors of S3 and those of requests among it.
TRANSIENT = (
    OSError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    CommitStateUnknownException,
)

T = TypeVar("T")


@contextmanager
def let_in() -> Iterator[None]:
    """Say in one line that a catalog refuses: pyiceberg has asked for a new token by then, if it can."""
    try:
        yield
    except (ForbiddenError, OAuthError, UnauthorizedError) as error:
        said = one_line(error).rstrip(".")
        raise StorageError(
            f"the catalog does not let us in: {said}; renew its token or credential and run again"
        ) from None


def patiently(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, which can be done again, after as many as ``s3.TRIES`` attempts."""
    with let_in():
        for attempt in range(s3.TRIES - 1):
            try:
                return work()
            except FileNotFoundError:
                raise
            except TRANSIENT as error:
                if is_full(error):
                    raise
                s3.wait(attempt)
        return work()
