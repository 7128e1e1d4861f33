"""The shards of a running step: which are at work, since when, and when all will be done."""

from collections.abc import Iterable
from itertools import islice

from rasterloom.pipelines.progress.eta import SEEN, Taken, seconds_left
from rasterloom.pipelines.step import Shard


class Flight:
    """What a driver knows of its shards. Times are those of ``time.monotonic``.

    More shards are given to Ray than there are workers, so that none idles; those that were given first are
    taken to be the ones at work.
    """

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._left = {shard.id: shard.rows for shard in shards}
        self._began: dict[str, float] = {}
        self._finished: list[Taken] = []
        self.workers = 0
        """For how many shards at once there is room."""

    @property
    def busy(self) -> int:
        """How many shards are at work."""
        return len(self._began)

    def given(self, ids: Iterable[str], workers: int, now: float) -> None:
        """Take in which shards Ray was given, in their order, and how many it has room for."""
        self.workers = workers
        self._began = {id_: self._began.get(id_, now) for id_ in islice(ids, workers)}

    def finished(self, id_: str, now: float) -> None:
        """Take in that a shard is done."""
        rows = self._left.pop(id_)
        began = self._began.pop(id_, None)
        if began is not None:
            self._finished = [*self._finished[1 - SEEN :], Taken(rows, now - began)]

    def seconds_at_work(self, now: float) -> float:
        """Seconds that the shards at work have taken so far, added up."""
        return sum(now - began for began in self._began.values())

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all shards are done, None while that cannot be told (`eta.seconds_left`)."""
        running = [Taken(self._left[id_], now - began) for id_, began in self._began.items()]
        waiting = [rows for id_, rows in self._left.items() if id_ not in self._began]
        return seconds_left(self._finished, running, waiting, self.workers)
