"""Retry policies of catalogs and tables behind a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
    OAuthError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
    ValidationException,
)

from rasterloom.errors import StorageError, one_line
from rasterloom.storage import s3
from rasterloom.storage.local_disk import is_full
from rasterloom.utils.retry import RetryPolicy

# OSError: whatever breaks a connection, pyarrow's errors of S3 and those of requests among it.
TRANSIENT = (
    OSError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    CommitStateUnknownException,
)

T = TypeVar("T")


def _passes(error: BaseException) -> bool:
    return isinstance(error, TRANSIENT) and not isinstance(error, FileNotFoundError) and not is_full(error)


def _lost(error: BaseException) -> bool:
    """Return whether another commit won, or the outcome is unknown."""
    lost = isinstance(error, (CommitFailedException, *TRANSIENT))
    return lost and not is_full(error)


NETWORK = RetryPolicy(_passes, s3.TRIES)
COMMITS = RetryPolicy(_lost, tries=20, base_s=0.06, cap_s=0.7, jitter=2 / 3)
REPLACEMENTS = replace(COMMITS, retried=lambda error: _lost(error) or isinstance(error, ValidationException))
CONFLICTS = replace(COMMITS, retried=lambda error: isinstance(error, CommitFailedException))


@contextmanager
def access_errors() -> Iterator[None]:
    """Turn a catalog's refusal into one line.

    pyiceberg has asked for a new token by then, if it can.
    """
    try:
        yield
    except (ForbiddenError, OAuthError, UnauthorizedError) as error:
        said = one_line(error).rstrip(".")
        raise StorageError(
            f"the catalog does not let us in: {said}; renew its token or credential and run again"
        ) from None


def with_retries(what: str, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, tried as ``NETWORK`` says.

    It can be done again; ``what`` names it in the log.
    """
    with access_errors():
        return NETWORK.call(what, work)
