"""Guard that stops a fetch whose success rate collapses."""

from collections import Counter, deque

import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.run import Run
from rasterloom.schema import ErrorClass
from rasterloom.storage.store import Store
from rasterloom.utils.redact import cut

OK = "ok"
# Rows that say nothing of the network: nobody was asked for them.
UNASKED = frozenset(
    {
        ErrorClass.BAD_URL,
        ErrorClass.BAD_CAPTION,
        ErrorClass.BAD_ROW,
        ErrorClass.BLOCKED_SCHEME,
        ErrorClass.OPT_OUT,
        ErrorClass.TAKEN_DOWN,
    }
)


class SuccessGuard:
    """Counts what came of the latest pairs, over finished shards."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store, self._run = store, run
        self._latest: deque[Published] = deque()

    def verdict(self, result: Published) -> str | None:
        """Take in a finished shard; return why to stop, or None."""
        self._latest.append(result)
        while sum(map(_asked, self._latest)) - _asked(self._latest[0]) >= self._run.success_window:
            self._latest.popleft()
        asked = sum(map(_asked, self._latest))
        good = sum(shard.counts.get(OK, 0) for shard in self._latest)
        if asked < self._run.success_window or good >= self._run.min_success * asked:
            return None
        classes = sum((Counter(shard.counts) for shard in self._latest), Counter[str]())
        failed = [(name, n) for name, n in classes.most_common() if name not in (OK, *UNASKED)]
        most = ", ".join(f"{name} {n:,}" for name, n in failed[:4])
        return (
            f"stopped, because only {good:,} of the last {asked:,} pairs became images ({good / asked:.1%}), "
            f"less than run.min_success = {self._run.min_success:.1%}. Most of them: {most}; "
            f"for example {_example(self._store, self._latest[-1], failed[0][0])}. "
            "What is finished stays. Look into the network and run again; "
            "or set run.min_success: 0 and run again, and retry the failures later."
        )


def _asked(shard: Published) -> int:
    return sum(n for name, n in shard.counts.items() if name not in UNASKED)


def _example(store: Store, shard: Published, error: str) -> str:
    rows = pq.read_table(
        [store.path(name) for name in shard.files],
        filesystem=store.filesystem,
        columns=["url", "detail"],
        filters=pc.field("error") == error,
    ).slice(0, 1)
    return " ".join(f"{cut(row['url'])}: {cut(row['detail'])}" for row in rows.to_pylist()) or "none at hand"
