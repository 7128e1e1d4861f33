"""Takedown: removing rows from every table of a corpus, and keeping them out.

First a tombstone is written, from which later runs know what must not come back. Then the data files that
hold any of the rows are written anew without them: those of shards that are staged, so that a run that goes
on does not bring them back, and those of the tables, on every branch. Done a second time, it changes nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom.errors import VersionError
from rasterloom.pipelines.maintenance.apply_takedowns import apply, apply_pending, is_settled
from rasterloom.pipelines.workspace.tombstones import (
    KINDS,
    Takedown,
    Tombstones,
    of_takedowns,
    takedowns,
    tombstones,
    write_takedown,
)
from rasterloom.sources.fetch.opt_out import kind_of
from rasterloom.storage.parquet_io import DataFile, read_files
from rasterloom.utils.parallel import AdvancePart, silent_part, spread
from rasterloom.versions import lineage
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.record import Record
from rasterloom.versions.refs import refs

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass
class Outcome:
    """Outcome of a takedown."""

    keys: list[str]
    duplicates: list[str]  # keys of rows that were dropped as duplicates of these, and stay
    checkpoints: list[str]  # that saw any of the keys
    rows: dict[str, int] = field(default_factory=dict)  # rows that went, by branch and table
    still: list[str] = field(default_factory=list)  # tags whose versions hold some of the keys
    number: int = 0  # of the takedown; 0 of a dry run, and if all of it was taken down before


def parse(given: Iterable[str]) -> dict[str, list[str]]:
    """Sort entries by kind: keys, perceptual hashes, SHA-256, hosts, URLs, prefixes of URLs.

    Raises:
        VersionError: an entry is none of these.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for line in given:
        entry = "" if line.startswith("#") else line.split(" #")[0].strip()
        if not entry:
            continue
        if _KEY.fullmatch(entry.lower()):
            found["key"].append(entry.lower())
        elif kind := kind_of(entry):
            found[kind].append(entry.lower() if kind == "phash" else entry)
        else:
            raise VersionError(
                f"{entry!r} is no key (32 hex digits), SHA-256 (64), perceptual hash (16, and perhaps ~ with "
                "0 to 16 bits), host or URL"
            )
    if not any(found.values()):
        raise VersionError("there is nothing to take down: the list is empty")
    return {kind: sorted(set(some)) for kind, some in found.items() if some}


def take_down(
    corpus: Corpus,
    given: Iterable[str],
    *,
    why: str = "",
    duplicates: bool = False,
    dry_run: bool = False,
    advance: AdvancePart = silent_part,
) -> Outcome:
    """Take rows out of every table of a corpus, on every branch.

    Args:
        given: entries, see :func:`parse`.
        why: kept with the takedown.
        duplicates: also take down what was dropped as a duplicate of these.
        dry_run: only find out what would go.

    Raises:
        VersionError: an entry is none, or the corpus has no version yet.
    """
    given_entries = parse(given)
    if corpus.table("pairs") is None and corpus.table("images") is None:
        raise VersionError(f"{corpus.name} has no version yet: rasterloom run RECIPE")
    first = Takedown(given_entries, [], why, "", "", [])
    keys = _keys_under(corpus, of_takedowns([replace(first, number=1)]), advance)
    others = _duplicates_of(corpus, keys)
    if duplicates:
        keys, others = sorted({*keys, *others}), []
    nodes = lineage.graph(corpus)
    trained = [nodes[f].name for f in lineage.checkpoints_of(corpus, nodes, keys)] if keys else []
    found = Outcome(keys, others, trained)
    before = takedowns(corpus.store, corpus.name)
    if dry_run:
        known = of_takedowns([*before, replace(first, keys=keys, number=len(before) + 1)])
        found.rows = apply(corpus, known, dry_run=True, advance=advance)
    else:
        if not of_takedowns(before).cover(given_entries, keys):
            signed = Record("", "", "", {}, {}).signed("", "")
            made = Takedown(given_entries, keys, why, signed.user, signed.finished, trained)
            found.number = write_takedown(corpus.store, corpus.name, made).number
        known = tombstones(corpus.store, corpus.name)
        found.rows = apply_pending(corpus, advance)
    found.still = [ref.name for ref in refs(corpus) if ref.kind == "tag" and held(corpus, ref.name, known)]
    return found


def _keys_under(corpus: Corpus, rules: Tombstones, advance: AdvancePart) -> list[str]:
    """Keys of all pairs and images that entries name, staged ones too."""
    names = {kind: {f.name for f in _everywhere(corpus, kind)} for kind in ("pairs", "images")}
    for name in corpus.store.list(corpus.layout.all_staging):
        kind, _ = corpus.layout.staged_step(name)
        if kind in names and name.endswith(".parquet"):
            names[kind].add(name)
    columns = {
        "pairs": ["key", "url", "more"],
        "images": ["key", "url", "final_url", "sha256", "phash", "more.list.element.sha256"],
    }
    found = set(rules.keys.to_pylist())

    def look(kind: str, name: str) -> list[str]:
        with corpus.store.filesystem.open_input_file(corpus.store.path(name)) as source:
            rows = pq.ParquetFile(source).read(columns=columns[kind])
        hit = rules.hit_pairs(rows) if kind == "pairs" else rules.hit_images(rows)
        keys: list[str] = rows["key"].filter(hit).to_pylist()
        return keys

    for kind in names if rules.looks_at_rows else ():
        work = partial(look, kind)
        for keys in spread(work, sorted(names[kind]), advance(f"looking at {kind}")):
            found.update(keys)
    return sorted(found)


def _everywhere(corpus: Corpus, name: str) -> list[DataFile]:
    """The data files of a table at all of its snapshots."""
    table = corpus.table(name)
    found: dict[str, DataFile] = {}
    for snapshot in table.snapshots() if table else ():
        found |= {f.name: f for f in corpus.files(name, snapshot.snapshot_id)}
    return list(found.values())


def _duplicates_of(corpus: Corpus, keys: list[str]) -> list[str]:
    """Keys of rows dropped as duplicates of some, these excluded."""
    files = [f.name for f in corpus.files("selection")]
    if not files or not keys:
        return []
    of = pc.field("duplicate_of").isin(pa.array(keys, pa.string()))
    return sorted(set(read_files(corpus.store, files, of, ["key"])["key"].to_pylist()) - set(keys))


def held(corpus: Corpus, ref: str, known: Tombstones) -> bool:
    """True if a corpus's version holds rows taken down."""
    at = replace(corpus, ref=ref)
    where = pc.field("key").isin(known.keys)
    for name in TABLES:
        files = [f.name for f in at.files(name)] if len(known.keys) else []
        if files and corpus.dataset(files).count_rows(filter=where):
            return True
    return False


def refuse_held(corpus: Corpus) -> None:
    """Raise VersionError if a corpus's version holds rows taken down."""
    known = tombstones(corpus.store, corpus.name)
    if any(ref.kind == "branch" and ref.name == corpus.ref for ref in refs(corpus)):
        if not is_settled(corpus, known):
            raise VersionError(
                f"takedown {known.number} of {corpus.name} was cut off: give it again, or run RECIPE, first"
            )
    elif known.number and held(corpus, corpus.ref, known):
        raise VersionError(
            f"{corpus.name}@{corpus.ref} holds rows that were taken down since; a branch of it is without "
            f"them: rasterloom versions branch RECIPE NAME --at {corpus.ref}"
        )
