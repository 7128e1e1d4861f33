"""Garbage collection: removing old versions and all files that nothing reaches.

The order of the deletions is such that what is left, wherever this is stopped, is either whole or no longer
on record; the next time finishes it.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rasterloom.errors import VersionError
from rasterloom.pipelines.maintenance.reachability import Grace, Item, scan
from rasterloom.pipelines.workspace.leases import GC, hold_lease, others
from rasterloom.utils.parallel import AdvancePart, silent_part, spread
from rasterloom.versions import expire_snapshots
from rasterloom.versions.corpus import TABLES, Corpus


@dataclass
class Garbage:
    """Garbage: snapshots by table, and files in the order of their deletion."""

    snapshots: dict[str, int] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the files of each kind."""
        number: Counter[str] = Counter(item.kind for item in self.items)
        size: Counter[str] = Counter()
        for item in self.items:
            size[item.kind] += item.size
        return {kind: (number[kind], size[kind]) for kind in number}


def find(corpus: Corpus, grace: Grace = Grace(), *, models: bool = False) -> Garbage:
    """Find what would go. Nothing is changed.

    Args:
        models: also trained models that were made of versions that are gone.
    """
    beside = others(corpus)
    working = frozenset(f for lease in beside for f in lease.fingerprints)
    since = _since(grace)
    kept, gone = {}, {}
    for name in TABLES:
        if (table := corpus.table(name)) is not None:
            kept[name] = expire_snapshots.staying(table, since, working)
            gone[name] = len(table.snapshots()) - len(kept[name])
    items = scan(corpus, grace, kept, working, models=models, busy=bool(beside))
    return Garbage({name: number for name, number in gone.items() if number}, items)


def collect(
    corpus: Corpus, grace: Grace = Grace(), *, models: bool = False, advance: AdvancePart = silent_part
) -> Garbage:
    """Remove what nothing reaches, and return what that was.

    Raises:
        VersionError: a takedown is under way.
    """
    with hold_lease(corpus, GC) as beside:
        if any(lease.what == "takedown" for lease in beside):
            raise VersionError(f"a takedown is under way in {corpus.name}: run gc when it is done")
        working = frozenset(f for lease in beside for f in lease.fingerprints)
        versions = {name: expire_snapshots.expire(corpus, name, _since(grace), working) for name in TABLES}
        there = {name: table for name in TABLES if (table := corpus.table(name)) is not None}
        kept = {name: {s.snapshot_id for s in table.snapshots()} for name, table in there.items()}
        items = scan(corpus, grace, kept, working, models=models, busy=bool(beside))
        _delete(items, advance)
    return Garbage({name: number for name, number in versions.items() if number}, items)


def _since(grace: Grace) -> float:
    return (datetime.now(UTC) - grace.versions).timestamp() * 1000


def _delete(items: list[Item], advance: AdvancePart) -> None:
    """Delete files, one kind after the other: records before what they are records of."""
    for kind in dict.fromkeys(item.kind for item in items):
        mine = [item for item in items if item.kind == kind]
        spread(Item.remove, mine, advance(f"removing {kind}"))
