"""End of a run at a sum that the recipe sets."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rasterloom.pipelines.execution.nodes import resources_there
from rasterloom.recipe.run import Run
from rasterloom.utils.formatting import usd
from rasterloom.utils.sigterm import sigterm

LOOK_EVERY_S = 10.0  # nodes come and go in minutes
FIRST_LOOK_S = 1.0  # until this process is connected; what was before counts then


@contextmanager
def budget(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Stop this process as SIGTERM does, once its nodes cost too much."""
    if run.max_usd is None:
        yield
        return
    sigterm.heed()
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(run, run.max_usd, over, say), name="budget", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()


def _watch(run: Run, most: float, over: threading.Event, say: Callable[[str], None]) -> None:
    spent, counted, pause = 0.0, time.monotonic(), FIRST_LOOK_S
    an_hour: float | None = None
    while not over.wait(pause):
        nodes = resources_there()
        if nodes is not None:
            an_hour = price_of_an_hour(run, nodes)
        if an_hour is None:
            continue
        now = time.monotonic()
        spent, counted = spent + an_hour * (now - counted) / 3600, now
        if spent >= most:
            say(f"Its {usd(most)} (run.max_usd) are spent: its nodes cost {usd(an_hour)} an hour")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        pause = min(LOOK_EVERY_S, 3600 * (most - spent) / an_hour) if an_hour else LOOK_EVERY_S


def price_of_an_hour(run: Run, nodes: Iterable[Mapping[str, float]]) -> float:
    """Price of an hour of nodes, by their CPUs and GPUs."""
    return sum(run.price.usd(3600, node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)


def limit_text(run: Run) -> str:
    """One line on the limit, for a plan. Empty if there is none."""
    if run.max_usd is None:
        return ""
    prices = {"a CPU": run.price.cpu, "a GPU": run.price.gpu}
    each = " or ".join(f"{run.max_usd / price:,.1f} h of {name}" for name, price in prices.items() if price)
    return f"A run stops when its nodes have cost {usd(run.max_usd)} (run.max_usd): {each}."
