"""Takedowns on record, and leaving their rows out of what is made.

Each takedown leaves one file in the corpus, numbered, never changed. Workers leave out of their shards what
falls under those that were there when the step began; what came later is looked for at the commit.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from yarl import URL

from rasterloom.filtering.duplicates import hashes_of
from rasterloom.schema import ErrorClass, StepKind
from rasterloom.sources.fetch.opt_out import COLUMNS, NOTHING, OptOuts, opt_outs_of
from rasterloom.storage.layout import Layout
from rasterloom.storage.parquet_io import count_of
from rasterloom.storage.store import Store

KINDS = ("key", *COLUMNS)  # of entries; all but the first as in opt-out lists
# Columns of `images` that a row keeps when its image goes.
STAY = ("key", "shard", "url", "caption", "attempts", "task", "turns", "main")


@dataclass(frozen=True)
class Takedown:
    """One takedown, as it is written down."""

    entries: dict[str, list[str]]  # by kind, as they were given
    keys: list[str]  # of the pairs that fell under them when it was made
    why: str
    user: str
    when: str  # date and time, UTC
    checkpoints: list[str]  # that had seen any of the keys
    number: int = 0


@dataclass(frozen=True)
class Tombstones:
    """All takedowns of a corpus, in forms for look-ups."""

    number: int = 0  # of the last one
    keys: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    places: OptOuts = NOTHING
    entries: Mapping[str, list[str]] = field(default_factory=dict)  # as they were given

    def without(self, table: pa.Table, step: str) -> tuple[pa.Table, dict[str, int]]:
        """Leave out rows that were taken down. Also return the change of the counts.

        Rows of pairs go. A row of images whose image, or the address that it really came from, falls under
        an entry stays as a failure, as every pair has a row there; one whose pair is gone goes with it.
        """
        if not self.number or "key" not in table.column_names:
            return table, {}
        kind = StepKind.of(step)
        gone = pc.is_in(table["key"], self.keys)
        if kind is StepKind.PAIRS:
            gone = pc.or_(gone, self._by_place(table, ("url",), "more"))
        left = table.filter(pc.invert(gone))
        change = {name: -n for name, n in counts_of(table.filter(gone), kind).items()}
        if kind is StepKind.PAIRS and left.num_rows < table.num_rows:
            change[str(ErrorClass.TAKEN_DOWN)] = table.num_rows - left.num_rows
        if kind is StepKind.IMAGES:
            blank = pc.and_(pc.equal(left["status"], "ok"), self.hit_images(left))
            for name, n in count_of(left["status"].filter(blank)).items():
                change[name] = change.get(name, 0) - n
                change[str(ErrorClass.TAKEN_DOWN)] = n
            left = _blanked(left, blank)
        return left, change

    @property
    def looks_at_rows(self) -> bool:
        """True if there is more to look for than keys."""
        places = self.places
        return bool(places.hosts or places.urls or places.prefixes or places.hashes or places.phashes)

    def hit_images(self, images: pa.Table) -> pa.ChunkedArray:
        """Mask of image rows whose address or image an entry names.

        Of the columns that are looked at those that are missing count as null.
        """
        hit = self._by_place(images, ("url", "final_url"))
        if self.places.hashes and "sha256" in images.column_names:
            hit = pc.or_(hit, pc.is_in(images["sha256"], pa.array(sorted(self.places.hashes), pa.string())))
        if self.places.phashes and "phash" in images.column_names:
            near = pa.array(self.places.near(hashes_of(images["phash"])))
            hit = pc.or_(hit, pc.and_(images["phash"].is_valid(), near))
        if self.places.hashes and "more" in images.column_names:
            hashes = self.places.hashes
            more = [any(p["sha256"] in hashes for p in row or ()) for row in _hashes_of(images["more"])]
            hit = pc.or_(hit, pa.chunked_array([pa.array(more, pa.bool_())]))
        return hit

    def hit_pairs(self, pairs: pa.Table) -> pa.ChunkedArray:
        """Mask of the rows of pairs whose address falls under an entry."""
        return self._by_place(pairs, ("url",), "more")

    def _by_place(
        self, rows: pa.Table, columns: Iterable[str], several: str | None = None
    ) -> pa.ChunkedArray:
        found = [False] * rows.num_rows
        places = self.places
        if places.hosts or places.urls or places.prefixes:
            lists = [[[v] for v in rows[c].to_pylist()] for c in columns if c in rows.column_names]
            lists += [rows[several].to_pylist()] if several and several in rows.column_names else []
            for urls in lists:
                for number, row in enumerate(urls):
                    found[number] |= any(_falls(places, url) for url in row or () if url)
        return pa.chunked_array([pa.array(found, pa.bool_())])

    def cover(self, entries: Mapping[str, list[str]], keys: Iterable[str]) -> bool:
        """True if these contain a takedown's entries and their keys."""
        mine = {kind: set(self.entries.get(kind, ())) for kind in entries}
        known = set(self.keys.to_pylist())
        return known.issuperset(keys) and all(mine[kind].issuperset(some) for kind, some in entries.items())


NONE = Tombstones()


def _falls(places: OptOuts, url: str) -> bool:
    try:
        return places.of_url(URL(url)) is not None
    except ValueError:  # no URL: a place in a source
        return False


def _hashes_of(more: pa.ChunkedArray) -> list[list[dict[str, Any]] | None]:
    return [
        None if row is None else [{"sha256": image.get("sha256")} for image in row]
        for row in more.to_pylist()
    ]


def _blanked(images: pa.Table, where: pa.ChunkedArray) -> pa.Table:
    """Rows without their image, in their places, as failures."""
    if not pc.any(where).as_py():
        return images
    why = {
        "status": "failed",
        "error": str(ErrorClass.TAKEN_DOWN),
        "detail": "on the corpus's list of takedowns",
    }
    rows = images.filter(where).select([name for name in STAY if name in images.column_names]).to_pylist()
    gone = pa.Table.from_pylist([{**row, **why} for row in rows], schema=images.schema)
    both = pa.concat_tables([images.filter(pc.invert(where)), gone])
    return both.take(pc.index_in(images["key"].combine_chunks(), both["key"].combine_chunks()))


def counts_of(rows: pa.Table, kind: StepKind | None) -> dict[str, int]:
    """Counts that some rows of a step's result contribute."""
    if not rows.num_rows:
        return {}
    if kind in (StepKind.IMAGES, StepKind.CAPTIONS):
        return count_of(rows["error"].fill_null("ok"))
    if kind is StepKind.SELECTION:
        return count_of(rows["reason"])
    if kind is StepKind.TOKENS:
        return {"sequences": rows.num_rows, "tokens": pc.sum(rows["n_tokens"]).as_py()}
    if kind is StepKind.CODES:
        failed = count_of(rows["error"].drop_null(), "failed: ")
        return {**count_of(rows["bucket"].drop_null()), **failed}
    return {"pairs" if kind is StepKind.PAIRS else "rows": rows.num_rows}


def takedowns(store: Store, corpus: str) -> list[Takedown]:
    """All takedowns of a corpus, the oldest first."""
    return [_read(store, name) for name in store.list(Layout(corpus).takedowns)]


def latest_takedown(store: Store, corpus: str) -> int:
    """The number of a corpus's last takedown, 0 if there was none."""
    names = store.list(Layout(corpus).takedowns)
    return _number(names[-1]) if names else 0


def tombstones(store: Store, corpus: str) -> Tombstones:
    """All takedowns of a corpus, to look rows up by."""
    return of_takedowns(takedowns(store, corpus))


def of_takedowns(found: list[Takedown]) -> Tombstones:
    """Takedowns, to look rows up by. Raises: sources.optout.OptOutError."""
    if not found:
        return NONE
    entries = {kind: [e for t in found for e in t.entries.get(kind, ())] for kind in KINDS}
    keys = sorted({key for t in found for key in (*t.keys, *t.entries.get("key", ()))})
    places = opt_outs_of(entries, "the takedowns")
    return Tombstones(found[-1].number, pa.array(keys, pa.string()), places, entries)


def write_takedown(store: Store, corpus: str, made: Takedown) -> Takedown:
    """Record a takedown under the next free number, and return it."""
    number = latest_takedown(store, corpus)
    while True:
        number += 1
        numbered = replace(made, number=number)
        data = json.dumps(asdict(numbered), ensure_ascii=False, indent=1).encode()
        if store.put_if_absent(Layout(corpus).takedown(number), data):
            return numbered


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


@lru_cache(maxsize=256)  # they never change
def _read(store: Store, name: str) -> Takedown:
    return Takedown(**json.loads(store.read(name)))
