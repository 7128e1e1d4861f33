"""The nodes of the Ray that a run uses: which are there, and how much room they have."""

import time

LOOK_EVERY_S = 1.0
LATE_S = 20.0  # until the head has surely noticed that a node is gone: five checks, three seconds apart


class Nodes:
    """What the cluster has for workers that take ``needs`` each, by name of the resource."""

    def __init__(self, needs: dict[str, float]) -> None:
        self.needs = {name: amount for name, amount in needs.items() if amount}
        self._looked = -LOOK_EVERY_S
        self._there: dict[str, dict[str, float]] = {}

    def alive(self) -> frozenset[str]:
        """The nodes that are there, by id."""
        return frozenset(self._look())

    def slots(self) -> int:
        """How many workers fit on the nodes that are there."""
        return sum(int(self._fit(has)) for has in self._look().values())

    def no_room(self) -> str | None:
        """Why no worker fits on any node, None if one does."""
        there = self._look()
        if any(self._fit(has) >= 1 for has in there.values()):
            return None
        names = sorted({*self.needs, "CPU"})
        have = "; ".join(", ".join(f"{n} {has.get(n, 0):g}" for n in names) for has in there.values())
        need = ", ".join(f"{name} {amount:g}" for name, amount in sorted(self.needs.items()))
        return f"it takes {need} (run.steps), and the nodes have {have or 'nothing'}"

    def lost(self, before: frozenset[str], error: Exception, wait: float = 0.0) -> bool:
        """Whether the error came of a node that was there ``before`` and is gone, as seen within ``wait``."""
        from ray.exceptions import ActorDiedError, NodeDiedError

        if isinstance(error, NodeDiedError) or (isinstance(error, ActorDiedError) and error.preempted):
            return True
        until = time.monotonic() + wait
        while not (gone := before - frozenset(self._look(now=True))) and time.monotonic() < until:
            time.sleep(0.5)
        return bool(gone)

    def _fit(self, has: dict[str, float]) -> float:
        return min((has.get(name, 0.0) / amount for name, amount in self.needs.items()), default=1.0)

    def _look(self, now: bool = False) -> dict[str, dict[str, float]]:
        import ray

        if now or time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
            self._looked = time.monotonic()
        return self._there
