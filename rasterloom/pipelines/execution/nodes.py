"""Nodes of the Ray cluster, and the room they have."""

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rasterloom.utils.formatting import size

LOOK_EVERY_S = 1.0
LATE_S = 20.0  # until the head has surely noticed that a node is gone: five checks, three seconds apart


def of_kind(accelerator: str | None) -> dict[str, float]:
    """Return the resource that places a worker beside a kind of GPU."""
    return {f"accelerator_type:{accelerator}": 0.001} if accelerator else {}


def in_words(needs: Mapping[str, float]) -> str:
    """Format what a worker takes: ``CPU 4, GPU 1, memory 2.0 GB, A100``."""
    found = []
    for name, amount in sorted(needs.items()):
        kind = name.removeprefix("accelerator_type:")
        found.append(
            kind if kind != name else f"memory {size(amount)}" if name == "memory" else f"{name} {amount:g}"
        )
    return ", ".join(found)


def slots(nodes: Iterable[Mapping[str, float]], needs: Mapping[str, float], placement: str = "PACK") -> int:
    """Return how many workers fit on nodes, placed as Ray does."""
    each = [int(_fit(has, needs)) for has in nodes]
    if placement == "STRICT_PACK":
        return max(each, default=0)
    return sum(min(1, fit) for fit in each) if placement == "STRICT_SPREAD" else sum(each)


def shared_folder(nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """Find a session folder that two nodes of one machine share.

    Args:
        nodes: as `ray.nodes` has them.
    """
    alive = [(node["NodeManagerAddress"], node["RayletSocketName"]) for node in nodes if node["Alive"]]
    places = [(host, str(Path(socket).parent.parent)) for host, socket in alive]
    return next((f"{folder} on {host}" for host, folder in places if places.count((host, folder)) > 1), None)


def resources_there() -> list[dict[str, float]] | None:
    """Resources of each node of the cluster.

    None before this process is connected. Any thread may ask.
    """
    ray = sys.modules.get("ray")  # `start_ray` imports it, as its variables must be there before
    try:
        if ray is None or not ray.is_initialized():
            return None
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except Exception:  # it is half imported, or its controller is gone, of which the run itself tells
        return None


def _fit(has: Mapping[str, float], needs: Mapping[str, float]) -> float:
    return min((has.get(name, 0.0) / amount for name, amount in needs.items()), default=1.0)


class Nodes:
    """Resources of the cluster for workers that take ``needs`` each."""

    def __init__(self, needs: dict[str, float]) -> None:
        self.needs = needs
        self._looked = -LOOK_EVERY_S
        self._there: dict[str, dict[str, float]] = {}

    def alive(self) -> frozenset[str]:
        """The nodes that are there, by id."""
        return frozenset(self._look())

    def slots(self, placement: str = "PACK") -> int:
        """Return how many workers fit on the nodes."""
        return slots(self._look().values(), self.needs, placement)

    def no_room(self) -> str | None:
        """Return why no worker fits on any node, or None."""
        there = self._look()
        if slots(there.values(), self.needs):
            return None
        names = sorted({*self.needs, "CPU"})
        have = "; ".join(in_words({n: has.get(n, 0) for n in names}) for has in there.values())
        return f"it takes {in_words(self.needs)} (run.steps), and the nodes have {have or 'nothing'}"

    def lost(self, before: frozenset[str], error: Exception, wait: float = 0.0) -> bool:
        """Return whether a node of ``before`` is gone, within ``wait`` seconds."""
        from ray.exceptions import ActorDiedError, NodeDiedError  # heavy

        if isinstance(error, NodeDiedError) or (isinstance(error, ActorDiedError) and error.preempted):
            return True
        until = time.monotonic() + wait
        while not (gone := before - frozenset(self._look(now=True))) and time.monotonic() < until:
            time.sleep(0.5)
        return bool(gone)

    def _look(self, now: bool = False) -> dict[str, dict[str, float]]:
        import ray  # heavy

        if now or time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
            self._looked = time.monotonic()
        return self._there
