"""Trying again what a network or a busy server spoilt."""

from collections.abc import Callable
from typing import TypeVar

from pyiceberg.exceptions import (
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)

from rasterloom import s3

# OSError: whatever breaks a connection, pyarrow's errors of S3 and those of requests among it.
TRANSIENT = (
    OSError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    CommitStateUnknownException,
)

T = TypeVar("T")


def patiently(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, which can be done again, after as many as ``s3.TRIES`` attempts."""
    for attempt in range(s3.TRIES - 1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except TRANSIENT:
            s3.wait(attempt)
    return work()
