"""Finding the files of a corpus that nothing reaches.

A result is *live* if a version that stays holds it, if such a version was made of it and it has no table
(``codes``, ``text``), if it was made of live results alone, if it is the last that its step made, or if
someone works on it. All else is garbage, once it is old enough.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from rasterloom.errors import StorageError
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.leases import expired
from rasterloom.pipelines.workspace.retries import retried
from rasterloom.schema import StepKind
from rasterloom.storage.layout import DATA, FILES, LAST, RECORDS, RESULT, SHARDS, STAGING
from rasterloom.storage.store import Store, UnfinishedUpload, plain_location
from rasterloom.utils.parallel import spread
from rasterloom.versions import expire_snapshots
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

IN_FLIGHT = timedelta(minutes=10)  # that a commit may take from the first file it writes to its end
BUSY = timedelta(hours=1)  # the same, where somebody is at work
_HEX = "[0-9a-f]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
# Names that Rasterloom gives; what is called otherwise is somebody else's.
_STAGED = re.compile(
    rf"(?P<step>.+)/(?P<fingerprint>{_HEX}{{20}})/"
    rf"(?:(?P<shard>{SHARDS}/(?:\d{{6,}}|[^/]+-\d{{4,}})(?:-{_HEX}{{20}})?\.json)"
    rf"|(?P<data>{DATA}/[^/]+-{_HEX}{{12}}-\d{{5,}}(?:-t\d{{6}}-{_HEX}{{8}})*\.parquet)|(?P<result>{re.escape(RESULT)}))"
)
_FOLDER = re.compile(rf"(?P<step>.+)/(?P<fingerprint>{_HEX}{{20}})(?:/.+|\.lock)")
_RECORD = re.compile(rf"(?P<step>.+)/(?P<fingerprint>{_HEX}{{20}}|{LAST})\.json")
_UNFINISHED = re.compile(rf"(?:.*/)?\.[^/]+\.{_HEX}{{32}}")  # a small file whose writer was killed
_ICEBERG = re.compile(
    rf"metadata/(?:\d+-{_UUID}\.metadata\.json(?:\.gz)?|snap-\d+-\d+-{_UUID}\.avro|{_UUID}-m\d+\.avro)"
    rf"|data/(?:.+/)?\d{{5}}-\d+-{_UUID}\.parquet"
)


@dataclass(frozen=True)
class Grace:
    """Time for which garbage is kept."""

    versions: timedelta = timedelta(days=7)
    files: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class Item:
    """A file to be removed, or an unfinished upload of one."""

    kind: str
    store: Store
    name: str
    size: int
    upload: UnfinishedUpload | None = None  # what goes is this, and not the file

    def remove(self) -> None:
        if self.upload:
            self.store.abort(self.upload)
        else:
            self.store.delete(self.name)


def scan(
    corpus: Corpus,
    grace: Grace,
    kept: dict[str, set[int]],
    working: Collection[str],
    *,
    models: bool = False,
    busy: bool = False,
) -> list[Item]:
    """Find the files that nothing reaches.

    Args:
        kept: the snapshots that stay, by table.
        working: fingerprints of leases.
        models: also trained models.
        busy: others work on the corpus.
    """
    return _Scan(corpus, grace, kept, working, models, busy).items()


class _Scan:
    """Files and versions of a corpus as one scan sees them."""

    def __init__(
        self,
        corpus: Corpus,
        grace: Grace,
        kept: dict[str, set[int]],
        working: Collection[str],
        models: bool,
        busy: bool,
    ) -> None:
        self.corpus, self.store, self.working, self.models = corpus, corpus.store, working, models
        self.now = datetime.now(UTC)
        self.before = self.now - grace.files
        # A file that bears no fingerprint may be of a commit that is being made.
        self.unmarked = self.now - max(grace.files, BUSY if busy else IN_FLIGHT)
        self.files = {file.name: file for file in self.store.files(corpus.name)}
        self.tables = {name: corpus.table(name) for name in kept}
        self.reach = {
            name: expire_snapshots.reach(table, kept[name]) for name, table in self.tables.items() if table
        }
        of_tables = [
            record
            for name, table in self.tables.items()
            if table
            for record in expire_snapshots.records_of(table, kept[name])
        ]
        self.live = self._live(of_tables)
        # Files in the workspace that a version holds; others it has where it found them.
        self.held: set[str] = set()
        for reached in self.reach.values():
            for uri in reached.data:
                try:
                    self.held.add(self.store.name_of(uri))
                except StorageError:
                    continue

    def items(self) -> list[Item]:
        records = [self._item("records", name) for name in self._dead_records()]
        staged = self._staged()
        folders = [self._item(kind, name) for kind, name in self._dead_folders()]
        leftovers = [
            self._item("leftovers", name)
            for name, file in self.files.items()
            if _UNFINISHED.fullmatch(name) and file.written < self.before
        ]
        leftovers += [self._item("leftovers", name) for name in expired(self.corpus, self.now)]
        return [*records, *staged, *folders, *self._of_iceberg(), *leftovers, *self._uploads()]

    def _item(self, kind: str, name: str) -> Item:
        return Item(kind, self.store, name, self.files[name].size)

    def _below(self, folder: str, pattern: re.Pattern[str]) -> Iterable[tuple[str, re.Match[str]]]:
        top = f"{self.corpus.layout.folder(folder)}/"
        for name in sorted(self.files):
            if name.startswith(top) and (found := pattern.fullmatch(name.removeprefix(top))):
                yield name, found

    def _live(self, of_tables: list[Record]) -> set[str]:
        """The fingerprints whose results are needed."""
        names = [name for name, _ in self._below(RECORDS, _RECORD)]
        read = spread(lambda name: Record.from_json(self.store.read(name)), names)
        last = {
            r.fingerprint for name, r in zip(names, read, strict=True) if self.corpus.layout.is_last(name)
        }
        noted = {record.fingerprint: record for record in read}
        models = [r for r in read if r.kind is StepKind.TRAIN and not self.models]
        live = {*self.working, *last, *_made_of([*of_tables, *models], noted)}
        while True:
            whole = {f for f, r in noted.items() if r.inputs and live.issuperset(r.inputs.values())}
            if whole <= live:
                return live
            live |= whole

    def _dead_records(self) -> list[str]:
        return [
            name
            for name, found in self._below(RECORDS, _RECORD)
            if found["fingerprint"] not in {*self.live, LAST} and self.files[name].written < self.before
        ]

    def _dead_folders(self) -> list[tuple[str, str]]:
        """Files of steps that make folders, with their kinds."""
        folders: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, found in self._below(FILES, _FOLDER):
            folders[found["step"], found["fingerprint"]].append(name)
        dead: list[tuple[str, str]] = []
        for (step, fingerprint), names in folders.items():
            kind = "models" if StepKind.of(step) is StepKind.TRAIN else "folders"
            if fingerprint not in self.live and self._are_old(names) and (kind == "folders" or self.models):
                dead += [(kind, name) for name in names]
        return sorted(dead)

    def _are_old(self, names: Iterable[str]) -> bool:
        return all(self.files[name].written < self.before for name in names)

    def _staged(self) -> list[Item]:
        """Shards of dead results, and data files that nothing names."""
        places: dict[str, dict[str, re.Match[str]]] = defaultdict(dict)
        for name, found in self._below(STAGING, _STAGED):
            places[f"{found['step']}/{found['fingerprint']}"][name] = found
        dead = {
            place
            for place, names in places.items()
            if place.rpartition("/")[2] not in self.live and self._are_old(names)
        }
        read = partial(staging.read_published, self.store)
        lively = [names for place, names in places.items() if place not in dead]
        shards = [name for names in lively for name, found in names.items() if found["shard"]]
        named = self.held.union(*(result.files for result in spread(read, shards)))
        by_kind: dict[str, list[Item]] = {"results": [], "shards": [], "data": []}
        for place, names in places.items():
            if place.rpartition("/")[2] in self.working:
                continue
            for name, found in names.items():
                if found["data"]:
                    if name not in named and self.files[name].written < self.before:
                        by_kind["data"].append(self._item("data", name))
                elif place in dead:
                    kind = "shards" if found["shard"] else "results"
                    by_kind[kind].append(self._item(kind, name))
        return [item for items in by_kind.values() for item in items]

    def _uploads(self) -> list[Item]:
        """Unfinished uploads of ours, whose writers were killed."""
        found = []
        for upload in self.store.uploads(self.corpus.name):
            place, _, name = upload.name.removeprefix(f"{self.corpus.name}/").partition("/")
            pattern = {STAGING: _STAGED, FILES: _FOLDER}.get(place)
            ours = pattern.fullmatch(name) if pattern else None
            if ours and ours["fingerprint"] not in self.working and upload.begun < self.before:
                found.append(upload)
        sizes = spread(self.store.uploaded, found)
        return [
            Item("uploads", self.store, one.name, size, one) for one, size in zip(found, sizes, strict=True)
        ]

    def _of_iceberg(self) -> list[Item]:
        """Metadata that no version reaches, and data that Iceberg itself wrote."""
        found = []
        for name, table in self.tables.items():
            if table is None:
                continue
            place = Store(_root(table.location()))
            reached = {plain_location(uri) for uri in (*self.reach[name].metadata, *self.reach[name].data)}
            for file in place.files(""):
                if (
                    _ICEBERG.fullmatch(file.name)
                    and plain_location(place.uri(file.name)) not in reached
                    and file.written < self.unmarked
                ):
                    found.append(Item("metadata", place, file.name, file.size))
        return found


def _made_of(records: Iterable[Record], noted: Mapping[str, Record]) -> set[str]:
    """Fingerprints of records and of the tableless results they were made of."""
    found: set[str] = set()
    waiting = list(records)
    while waiting:
        record = waiting.pop()
        found |= {record.fingerprint, retried(record.config)} - {""}
        waiting += [noted[f] for f in record.inputs.values() if f in noted and f not in found]
    return found


def _root(location: str) -> str:
    return plain_location(location).rstrip("/")
