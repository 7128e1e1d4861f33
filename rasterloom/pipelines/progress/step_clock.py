"""Clock of a running step: worker time and time left."""

from collections.abc import Iterable
from itertools import islice

from rasterloom.pipelines.progress.eta import SEEN, Taken, seconds_left
from rasterloom.pipelines.step import Shard

ETA_EVERY_S = 1.0


class ShardClock:
    """Times of the shards in flight. Times are those of ``time.monotonic``.

    More shards are given to Ray than there are workers, so that none idles; those that were given first are
    taken to be the ones at work.
    """

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._left = {shard.id: shard.rows for shard in shards}
        self._began: dict[str, float] = {}
        self._finished: list[Taken] = []
        self.room = 0
        """Shards that can be at work at once."""

    @property
    def busy(self) -> int:
        """Number of shards at work."""
        return len(self._began)

    def given(self, ids: Iterable[str], room: int, now: float) -> None:
        """Take in the shards that Ray was given, in order."""
        self.room = room
        self._began = {id_: self._began.get(id_, now) for id_ in islice(ids, room)}

    def finished(self, id_: str, now: float) -> None:
        """Take in that a shard is done."""
        rows = self._left.pop(id_)
        began = self._began.pop(id_, None)
        if began is not None:
            self._finished = [*self._finished[1 - SEEN :], Taken(rows, now - began)]

    def seconds_at_work(self, now: float) -> float:
        """Return the seconds of all shards at work, added up."""
        return sum(now - began for began in self._began.values())

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until all shards are done, None while unknown (`eta.seconds_left`)."""
        running = [Taken(self._left[id_], now - began) for id_, began in self._began.items()]
        waiting = [rows for id_, rows in self._left.items() if id_ not in self._began]
        return seconds_left(self._finished, running, waiting, self.room)


class StepClock:
    """Times of one step, and the seconds that its workers were held."""

    def __init__(self) -> None:
        self.began = 0.0
        self.ended: float | None = None
        self.shards = ShardClock()
        self._held = 0  # workers that are held all the time, as those of training are
        self._held_since = 0.0
        self._worker_seconds = 0.0  # up to then
        self._first: tuple[float, int] | None = None  # when the first unit of this run was done, and which
        self._eta: tuple[float, float | None] = (-ETA_EVERY_S, None)

    def begin(self, now: float) -> None:
        """Start the clock."""
        self.began = now

    def end(self, now: float) -> None:
        """Stop the clock; workers and shards are let go."""
        self.hold(0, now)
        self._worker_seconds += self.shards.seconds_at_work(now)
        self.ended, self.shards = now, ShardClock()

    def hold(self, workers: int, now: float) -> None:
        """Charge so many workers from now on."""
        self._worker_seconds += self._held * (now - self._held_since)
        self._held, self._held_since = workers, now

    def charge(self, seconds: float) -> None:
        """Charge a finished shard's seconds of a worker."""
        self._worker_seconds += seconds

    def advanced(self, before: int, done: int, now: float) -> None:
        """Take in the units done; this run's first starts its throughput."""
        if self._first is None and done > before:
            self._first = now, done

    def seconds(self, now: float) -> float:
        """Return the seconds since the step began; 0 before."""
        return (self.ended if self.ended is not None else now) - self.began if self.began else 0.0

    def worker_seconds(self, now: float) -> float:
        """Return the seconds of all workers so far, added up."""
        held = self._worker_seconds + self._held * (now - self._held_since)
        return held + self.shards.seconds_at_work(now)

    def eta_s(self, done: int, total: int, of_shards: bool, now: float) -> float | None:
        """Return the seconds until all units are done, None while unknown."""
        if now - self._eta[0] >= ETA_EVERY_S:
            self._eta = now, self.shards.seconds_left(now) if of_shards else self._left(done, total, now)
        at, left = self._eta
        return None if left is None else max(0.0, left - (now - at))

    def _left(self, done: int, total: int, now: float) -> float | None:
        if self._first is None or done <= self._first[1]:
            return None
        began, first = self._first
        return (now - began) / (done - first) * (total - done)
