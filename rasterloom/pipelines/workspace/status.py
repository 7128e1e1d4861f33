"""States of steps in a workspace: done, or the reason to run."""

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from rasterloom.pipelines.step import (
    FileStep,
    FinishedStep,
    HasResult,
    Inputs,
    ShardStep,
    Step,
    changes,
    table_of,
)
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.tombstones import latest_takedown
from rasterloom.storage.layout import LAST
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.transfer import download
from rasterloom.utils import private_folders
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record


@dataclass(frozen=True)
class Status:
    """State of a step: done, or the reason to run."""

    step: HasResult
    done: bool
    reason: str  # "done", "new", "config changed: ...", "input changed: ..."
    record: Record | None = None  # of this fingerprint if done, else of the last run
    snapshot_id: int | None = None


def file_folder(corpus: Corpus, step: HasResult) -> str:
    """Folder of a FileStep's result, a name in the store."""
    return corpus.layout.files(step.name, step.fingerprint)


def local_folder(corpus: Corpus, step: HasResult) -> Path:
    """Local folder with a finished FileStep's files. Of those on S3, a copy."""
    place = file_folder(corpus, step)
    if not corpus.store.is_s3:
        return Path(corpus.store.path(place))
    record = read_record(corpus, step.name, step.fingerprint)
    made = record.finished if record else ""  # a takedown makes some results anew
    copy = scratch_folder(step, f"-copy-{made.replace(':', '')}")
    if not copy.exists():
        draft = copy.with_name(f"copying-{uuid.uuid4().hex}")
        try:
            download(corpus.store, place, draft)
            with contextlib.suppress(OSError):  # somebody else was first
                draft.rename(copy)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for earlier_copy in copy.parent.glob(f"{step.fingerprint}-copy-*"):
            if earlier_copy != copy:
                private_folders.remove(earlier_copy)
        private_folders.remove_old(copy.parent)
    os.utime(copy)  # it is in use
    return copy


def scratch_folder(step: HasResult, suffix: str = "") -> Path:
    """A private local folder for a step whose result is on S3.

    Raises:
        StorageError: what lies there is not this user's own.
    """
    return private_folders.private_path(step.name.replace("/", "-"), f"{step.fingerprint}{suffix}")


def work_folder(corpus: Corpus, step: HasResult) -> Path:
    """Local folder that a FileStep works in: its result's, or a scratch folder for S3."""
    return scratch_folder(step) if corpus.store.is_s3 else Path(corpus.store.path(file_folder(corpus, step)))


def write_record(corpus: Corpus, record: Record) -> None:
    """Mark a tableless step as done, and as its last run."""
    for name in (record.fingerprint, LAST):
        corpus.store.put(corpus.layout.record(record.step, name), record.to_json())


def delete_record(corpus: Corpus, step: HasResult) -> None:
    """Make a tableless step count as new under its fingerprint."""
    corpus.store.delete(corpus.layout.record(step.name, step.fingerprint))
    last = read_record(corpus, step.name, LAST)
    if last and last.fingerprint == step.fingerprint:
        corpus.store.delete(corpus.layout.record(step.name, LAST))


def change_record(corpus: Corpus, record: Record) -> None:
    """Put a record in the place of that of the same result."""
    corpus.store.put(corpus.layout.record(record.step, record.fingerprint), record.to_json())
    last = read_record(corpus, record.step, LAST)
    if last and last.fingerprint == record.fingerprint:
        corpus.store.put(corpus.layout.record(record.step, LAST), record.to_json())


def read_record(corpus: Corpus, step: str, fingerprint: str) -> Record | None:
    """The record of a tableless step. `LAST` as fingerprint gives its last run's."""
    try:
        return Record.from_json(corpus.store.read(corpus.layout.record(step, fingerprint)))
    except FileNotFoundError:
        return None


def status(corpus: Corpus, step: HasResult) -> Status:
    """Look up the result of a step, under exactly its fingerprint."""
    snapshot_id = None
    if table := table_of(step):
        head = head_snapshot(corpus, corpus.table(table), step.name)
        last = head[1] if head else None
        if head and head[1].fingerprint == step.fingerprint:
            snapshot_id = head[0].snapshot_id
    else:
        last = read_record(corpus, step.name, step.fingerprint) or read_record(corpus, step.name, LAST)
    if last is None:
        return Status(step, False, "new")
    if last.fingerprint == step.fingerprint:
        if why := _taken_down_since(corpus, step, last):
            return Status(step, False, why, last)
        return Status(step, True, _done(step, last), last, snapshot_id)
    return Status(step, False, _why(step, last), last)


def _taken_down_since(corpus: Corpus, step: HasResult, last: Record) -> str:
    """Reason to make a step again that shows rows taken down."""
    if not isinstance(step, FileStep) or not step.shows_rows:
        return ""
    if last.takedowns >= latest_takedown(corpus.store, corpus.name):
        return ""
    for given in step.inputs:
        record = status(corpus, given).record
        if record and record.taken_down > last.takedowns:
            return f"takedown {record.taken_down} took rows out of {given.name}"
    return ""


def _done(step: HasResult, last: Record) -> str:
    """State of a finished step, with changed settings that have no effect."""
    if not isinstance(step, Step) or not last.other_settings:
        return "done"
    found = changes(last.other_settings, step.other_settings)
    return f"done; changed without effect on it: {', '.join(found)}" if found else "done"


def _why(step: HasResult, last: Record) -> str:
    if not isinstance(step, Step):
        return f"replaced by {last.fingerprint}"
    if last.code_version != step.code_version:  # another version may have other fields, too
        return f"code changed: version {last.code_version} -> {step.code_version}"
    found = changes(last.config, step.settings, f"{step.name.partition('/')[0]}.")
    if found:
        return "config changed: " + ", ".join(found)
    names = [s.name for s in step.inputs if last.inputs.get(s.name) != s.fingerprint]
    gone = sorted(set(last.inputs) - {s.name for s in step.inputs})
    return "input changed: " + ", ".join(names + gone)


def inputs_of(corpus: Corpus, step: Step) -> Inputs:
    """Input files of a step, at its inputs' fingerprints."""
    found = {given.name: output_files(corpus, given) for given in step.inputs}
    before = earlier(corpus, step)
    if before is not None:
        assert isinstance(step, ShardStep) and step.table
        found["earlier"] = corpus.files(step.table, before, step.replaces)
    return found


def earlier(corpus: Corpus, step: HasResult) -> int | None:
    """The snapshot that a step remembers, if it exists."""
    if not isinstance(step, ShardStep) or step.remembers is None or step.table is None:
        return None
    head = head_snapshot(corpus, corpus.table(step.table), step.name)
    if head is None or head[1].fingerprint == step.fingerprint:
        return None
    same = all(head[1].config.get(name) == step.settings.get(name) for name in step.remembers)
    return head[0].snapshot_id if same else None


def output_files(corpus: Corpus, step: HasResult) -> list[DataFile]:
    """The Parquet files of a ShardStep, or the files of a FileStep."""
    if isinstance(step, FileStep) or (isinstance(step, FinishedStep) and step.has_files):
        return [DataFile(name, 0) for name in corpus.store.list(file_folder(corpus, step))]
    if isinstance(step, ShardStep | FinishedStep) and step.table:
        return corpus.files(step.table, status(corpus, step).snapshot_id, step.replaces)
    place = corpus.layout.staging(step.name, step.fingerprint)
    return [file for shard in staging.result_of(corpus.store, place) for file in shard.data_files]
