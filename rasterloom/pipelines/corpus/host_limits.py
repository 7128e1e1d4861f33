"""Limits of hosts that count for all workers of a run: the book of slots as a Ray actor."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

from rasterloom.pipelines.corpus.host_book import HostBook
from rasterloom.pipelines.step import Shard
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import HostLimits, Run
from rasterloom.sources.fetch.leases import Answer, Ask, Exchange
from rasterloom.sources.host_order import MANY_ROWS

ANSWER_S = 20.0


def shares_limits(limits: HostLimits, many: bool) -> bool:
    """Return whether workers share the limits of hosts.

    Args:
        many: whether the list of pairs is long.
    """
    return limits == "cluster" or (limits == "auto" and many)


def may_share(fetch: Fetch, run: Run) -> bool:
    """Return whether workers of a long list share the limits of hosts."""
    return fetch.engine != "img2dataset" and run.host_limits != "worker"


def limits_text(recipe: Recipe, pairs: int | None, may_be_many: bool) -> str:
    """One line on whose limits those of hosts are, for a plan. Empty where each worker has its own.

    Args:
        pairs: how many there are, if that is known.
        may_be_many: whether there may be more than ``MANY_ROWS``, if it is not.
    """
    if not may_share(recipe.fetch, recipe.run):
        return ""
    rate = recipe.fetch.host_rate
    verb = f"and host_rate: {rate:g} count" if rate else "counts"
    text = f"fetch.per_host: {recipe.fetch.per_host} {verb} for all workers together"
    if recipe.run.host_limits == "cluster":
        return f"{text} (run.host_limits: cluster)."
    if pairs is None and may_be_many:
        return f"{text} if there are more than {MANY_ROWS:,} pairs (run.host_limits)."
    if pairs is not None and pairs > MANY_ROWS:
        return f"{text}, as there are more than {MANY_ROWS:,} pairs (run.host_limits)."
    return ""


@contextmanager
def serve(shards: Sequence[Shard[Any]], config: Fetch, limits: HostLimits) -> Iterator[None]:
    """Keep the book for the workers of some shards."""
    many = any(shard.task.of_many for shard in shards)
    if config.engine == "img2dataset" or not shares_limits(limits, many):
        yield
        return
    import ray  # heavy

    # A lost node takes the book along; workers tell the next one of the slots that they have.
    book = ray.remote(HostBook).options(name=_name(config), get_if_exists=True, num_cpus=0, max_restarts=-1)
    actor = book.remote(config)
    try:
        yield
    finally:
        with suppress(Exception):  # of Ray, whatever its class: it is gone already
            ray.kill(actor)


def _name(config: Fetch) -> str:
    return f"rasterloom-hosts-{hashlib.blake2b(config.model_dump_json().encode(), digest_size=8).hexdigest()}"


@lru_cache(maxsize=4)  # one for each config: clients of this process are found by it
def book_of_run(config: Fetch) -> Exchange:
    """Return a function that asks the book of this worker's run."""
    import ray  # heavy

    found: list[Any] = []

    def exchange(worker: str, asks: dict[str, Ask]) -> Answer:
        if not ray.is_initialized():  # or it would be started by the call, at the end of a worker
            raise RuntimeError("Ray has ended")
        try:
            if not found:
                found.append(ray.get_actor(_name(config)))
            answer: Answer = ray.get(found[0].exchange.remote(worker, asks), timeout=ANSWER_S)
        except Exception:
            found.clear()
            raise
        return answer

    return exchange
