"""Applying takedowns that are pending: removing their rows wherever they are.

First the staged shards, so that a run that goes on does not bring rows back, then the tables, on every
branch. What was found clean is noted down, so that a run sees at a glance whether there is anything to do:
a takedown that was killed is finished by the next run or takedown, as is one that a commit slipped past.
"""

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

from rasterloom import __version__
from rasterloom.pipelines.maintenance.rewrite import Cleaned, Cleaner
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.pipelines.workspace.status import change_record, read_record
from rasterloom.pipelines.workspace.tombstones import Tombstones, tombstones
from rasterloom.schema import StepKind
from rasterloom.storage.layout import staging_of
from rasterloom.storage.parquet_io import DataFile
from rasterloom.utils.parallel import AdvancePart, silent_part, spread
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import MAIN, TABLES, Corpus
from rasterloom.versions.history import made
from rasterloom.versions.record import BEFORE_TAKEDOWN, Record
from rasterloom.versions.refs import refs
from rasterloom.versions.replace_files import entries, replace_files

SHOWS_IMAGES = (StepKind.REPORT, StepKind.SAMPLE)  # steps whose folders have images of single rows


def apply_pending(corpus: Corpus, advance: AdvancePart = silent_part) -> dict[str, int]:
    """Apply pending takedowns; return how many rows went, by table."""
    known = tombstones(corpus.store, corpus.name)
    if is_settled(corpus, known):
        return {}
    with hold_lease(corpus, "takedown"):
        gone = apply(corpus, known, advance=advance)
        _note(corpus, known)
    return gone


def apply(
    corpus: Corpus, known: Tombstones, *, dry_run: bool = False, advance: AdvancePart = silent_part
) -> dict[str, int]:
    """Take rows out of staged shards and all branches' tables.

    Returns:
        How many rows went (or would go), by table; of branches other than main ``table@branch``.
    """
    cleaner = Cleaner(corpus.store, known, dry_run)
    taken_down: dict[str, int] = {} if dry_run else _clean_staging(corpus, cleaner, advance)
    gone: dict[str, int] = {}
    for branch in _branches(corpus):
        for name in TABLES:
            if lost := _clean_table(branch, name, cleaner, advance):
                gone[name if branch.ref == MAIN else f"{name}@{branch.ref}"] = lost
    if not dry_run:
        for branch in _branches(corpus):
            taken_down |= {v.record.fingerprint: v.record.taken_down for v in made(branch)}
        _forget_images(corpus, taken_down)
    return gone


def _branches(corpus: Corpus) -> list[Corpus]:
    return [replace(corpus, ref=ref.name) for ref in refs(corpus) if ref.kind == "branch"]


def is_settled(corpus: Corpus, known: Tombstones) -> bool:
    """True if every branch's version was made or checked against all takedowns."""
    if not known.number:
        return True
    clean = _noted(corpus, known)
    return all(
        version.snapshot_id in clean or version.record.takedowns >= known.number
        for branch in _branches(corpus)
        for version in made(branch)
    )


def _noted(corpus: Corpus, known: Tombstones) -> set[int]:
    try:
        noted = json.loads(corpus.store.read(corpus.layout.settled))
    except FileNotFoundError:
        return set()
    return set(noted["snapshots"]) if noted["takedowns"] == known.number else set()


def _note(corpus: Corpus, known: Tombstones) -> None:
    clean = {v.snapshot_id for branch in _branches(corpus) for v in made(branch)}
    noted = {"takedowns": known.number, "snapshots": sorted(clean | _noted(corpus, known))}
    corpus.store.put(corpus.layout.settled, json.dumps(noted).encode())


def _clean_staging(corpus: Corpus, cleaner: Cleaner, advance: AdvancePart) -> dict[str, int]:
    """Clean every published shard; return the last takedown of each fingerprint."""
    store, layout = corpus.store, corpus.layout
    names = [name for name in store.list(layout.all_staging) if staging.is_published(name)]
    taken_down: dict[str, int] = defaultdict(int)

    def clean(name: str) -> tuple[str, int]:
        place = staging_of(name)
        step, _ = layout.staged_step(place)
        return place, cleaner.published(place, staging.read_published(store, name), step).taken_down

    for place, last in spread(clean, names, advance("looking at staged shards")):
        taken_down[place] = max(taken_down[place], last)
    for place, last in taken_down.items():
        step, fingerprint = layout.staged_step(place)
        record = read_record(corpus, step, fingerprint) if last else None
        if record and record.taken_down < last:
            results = staging.result_of(store, place)
            counts, rows = staging.add_up([r.counts for r in results]), sum(r.rows for r in results)
            known = cleaner.known.number
            change_record(corpus, replace(record, counts=counts, rows=rows, takedowns=known, taken_down=last))
    return {layout.staged_step(place)[1]: last for place, last in taken_down.items()}


def _clean_table(corpus: Corpus, name: str, cleaner: Cleaner, advance: AdvancePart) -> int:
    """Commit a table without the rows, one step at a time. Return how many went."""
    total = 0
    while True:
        table = corpus.table(name)
        files = entries(corpus, table) if table is not None else {}

        def look(file: str, files: Any = files) -> Cleaned:
            entry = files[file]
            return cleaner.file(DataFile(file, entry.record_count), _step_of(name, entry))

        cleaned = dict(zip(files, spread(look, list(files), advance(f"looking at {name}")), strict=True))
        hit = {file: c for file, c in cleaned.items() if c.change}
        if cleaner.dry_run or not hit:
            return total + sum(c.gone for c in hit.values())
        step = min(_step_of(name, files[file]) for file in hit)
        mine = {file: c for file, c in hit.items() if _step_of(name, files[file]) == step}
        new = {file: c.name for file, c in mine.items()}
        if replace_files(corpus, name, new, _record(corpus, table, step, mine, cleaner)):
            total += sum(c.gone for c in mine.values())


def _step_of(table: str, entry: Any) -> str:
    several = (StepKind.TOKENS, StepKind.CAPTIONS)  # a step for each value of the partition
    return StepKind(table).step(entry.partition[0]) if table in several else table


def _record(corpus: Corpus, table: Any, step: str, hit: dict[str, Cleaned], cleaner: Cleaner) -> Record:
    """The step's record with the present counts."""
    last = head_snapshot(corpus, table, step)
    assert last is not None
    snapshot, record = last
    return replace(
        record,
        parents={**record.parents, BEFORE_TAKEDOWN: str(snapshot.snapshot_id)},
        counts=staging.add_up([record.counts, *(c.change for c in hit.values())]),
        rows=record.rows - sum(c.gone for c in hit.values()),
        takedowns=cleaner.known.number,
        taken_down=cleaner.known.number,
    ).signed(record.recipe, __version__)


def _forget_images(corpus: Corpus, taken_down: dict[str, int]) -> None:
    """Delete folders with images that were taken down. Their steps make them again."""
    store = corpus.store
    for step in SHOWS_IMAGES:
        for name in store.list(corpus.layout.records_of(step)):
            record = Record.from_json(store.read(name))
            if max((taken_down.get(f, 0) for f in record.inputs.values()), default=0) > record.takedowns:
                for file in store.list(corpus.layout.files(step, record.fingerprint)):
                    store.delete(file)
