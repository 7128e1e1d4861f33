"""Waiting times before retries: by class of error, doubled, with jitter."""

import random

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

FIRST_WAIT_S = {
    ErrorClass.INCOMPLETE: 0.5,
    ErrorClass.CONNECT: 0.5,
    ErrorClass.HTTP_4XX: 1.0,  # 408 and 425
    ErrorClass.HTTP_5XX: 1.0,
    ErrorClass.DNS: 2.0,  # the resolver said "try again"
    ErrorClass.HTTP_429: 4.0,  # we were too fast: the one class that is our own doing
}
JITTER = 0.5  # a wait is off by up to so much of itself, so that many do not come back as one


def wait_before_retry(attempt: int, failure: FetchFailure) -> float:
    """Return the seconds to wait after a failed attempt, counted from 1. Never less than the server asked."""
    wait = FIRST_WAIT_S.get(failure.error, 1.0) * 2.0 ** (attempt - 1)
    asked = failure.retry_after or 0.0
    return max(wait * random.uniform(1 - JITTER, 1 + JITTER), asked * random.uniform(1.0, 1.05))
