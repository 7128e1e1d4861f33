"""Steps as frozen data, with the fingerprints of their results."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol

import pyarrow as pa
from pydantic import BaseModel
from typing_extensions import TypeVar

from rasterloom.recipe.run import Run
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.versions.record import Record

if TYPE_CHECKING:
    from rasterloom.versions.corpus import Corpus  # which imports pyiceberg, and no worker needs that

Inputs = dict[str, list[DataFile]]
# The rows, as one table or as an iterator of tables that each become a file; and how many by outcome, which
# an iterator may fill in while it runs.
ShardResult = tuple[pa.Table | Iterator[pa.Table], dict[str, int]]


@dataclass(frozen=True)
class ShardSpec:
    """Base class of shard specs: a dataclass of plain values for each step."""

    @property
    def values(self) -> dict[str, Any]:
        """The values that are given, by name, as they enter the digest."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RetrySpec(ShardSpec):
    """Base class of the shards of a step that can be retried."""

    images: str | None = None  # file of the earlier result, whose other rows stay
    errors: list[str] | None = None  # classes of the rows that are tried again


class HasResult(Protocol):
    """A step, or what one has left: a result under a name and a fingerprint."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def kind(self) -> StepKind | None: ...
    @property
    def part(self) -> str: ...


# Covariant: a step of a certain config is a step; without parameters they stand for any.
ConfigT = TypeVar("ConfigT", bound=BaseModel, default=BaseModel, covariant=True)
SpecT = TypeVar("SpecT", bound=ShardSpec, default=Any, covariant=True)


@dataclass(frozen=True)
class Shard(Generic[SpecT]):
    """One unit of work: a name that sorts in order, and which rows it takes."""

    name: str
    spec: SpecT
    made: dict[str, Any] | None = None  # an earlier version's result that is taken over, as plain values
    now: SpecT | None = None  # in place of spec for the work, and no part of the digest: what may change
    rows: int = 1  # about so many to work on, beside the other shards of its step: for the time that is left

    @property
    def task(self) -> SpecT:
        """The spec for the work."""
        return self.spec if self.now is None else self.now

    @property
    def digest(self) -> str:
        """Digest of the spec: data files never change, so their names stand for their content."""
        text = json.dumps(self.spec.values, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    @property
    def id(self) -> str:
        """Name and digest, which the shard is published under."""
        return f"{self.name}-{self.digest}"


@dataclass(frozen=True)
class Step(Generic[ConfigT]):
    """Base class of steps. Two steps with the same fingerprint have the same result.

    The fingerprint is a digest of name, config, code version, identity and the inputs' fingerprints,
    and of nothing else.
    """

    name: str
    config: ConfigT
    code_version: str  # raised by hand when the same config would give another result
    inputs: tuple[HasResult, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)  # digests of what lies outside: sources, weights
    other_settings: dict[str, Any] = field(
        default_factory=dict
    )  # that change no result, by the recipe's names

    @property
    def kind(self) -> StepKind | None:
        return StepKind.of(self.name)

    @property
    def part(self) -> str:
        """Target or stage of a step of several. Empty for others."""
        return StepKind.part(self.name)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Config and identity as plain JSON values."""
        return {**json.loads(self.config.model_dump_json()), **self.identity}

    @cached_property
    def fingerprint(self) -> str:
        parts = {
            "name": self.name,
            "config": self.settings,
            "code_version": self.code_version,
            "inputs": {step.name: step.fingerprint for step in self.inputs},
        }
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


@dataclass(frozen=True)
class Halves(Generic[ConfigT, SpecT]):
    """Functions that tell the rows of a shard apart."""

    rows: Callable[[Store, SpecT], int]
    part: Callable[[SpecT, int, int], SpecT]
    """The spec of some rows: of how many, from which one on."""
    killed: Callable[..., ShardResult]
    """Work on a spec of one row that nobody survives; ``detail`` says what happened."""


@dataclass(frozen=True)
class ShardStep(Step[ConfigT], Generic[ConfigT, SpecT]):
    """A step over shards.

    ``plan`` cuts the inputs up, and ``work`` turns one shard into rows. The shards run as Ray tasks, in any
    order and any number at once; ``work`` is a top-level function and must give the same rows when it is
    run again, as far as the world outside allows.
    """

    plan: Callable[[Store, Inputs, ConfigT], list[Shard[SpecT]]] = field(kw_only=True)
    work: Callable[[Store, SpecT, ConfigT], ShardResult] = field(kw_only=True)
    schema: pa.Schema = field(kw_only=True)
    table: str | None = None  # None: staged for the next step only
    replaces: str = ""  # Iceberg filter of the rows that give way; all when empty
    partition_by: tuple[str, ...] = ()
    parquet: dict[str, Any] = field(default_factory=dict)  # options of pyarrow's write_table
    guarded: bool = False  # stops when the share of rows counted as ok collapses
    halves: Halves | None = None  # None: a shard whose workers die ends the step
    cpus: float = 1.0
    overlap: int = 1  # shards that a worker is at at once, where there are many, as they wait for a network
    beside: Callable[[list[Shard[SpecT]]], AbstractContextManager[object]] | None = None
    """Service for the workers of some shards while they run."""
    workers: int | None = None  # at most so many: what shards share, as a rate, counts in one process
    unfinished: tuple[
        str, ...
    ] = ()  # counts of rows that keep the step from its end: a further run does them
    uses_gpu: bool = False  # takes a GPU, where the recipe's run has them used
    remembers: tuple[str, ...] | None = None
    """Settings: where they are the same as in the last version that the step gave its table, that version
    is an input, called ``earlier``; no part of the fingerprint, as the world fetched from is not."""


class StepProgress(Protocol):
    """Receiver of a step's progress, as `pipelines.progress.reporter.Reporter` is."""

    def advanced(self, done: int, total: int | None = None) -> None: ...
    def counted(self, what: Any) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class StepContext(Generic[ConfigT]):
    """Arguments of a step that makes files."""

    corpus: "Corpus"
    inputs: Inputs
    step: "FileStep[ConfigT]"
    folder: Path  # of this machine, to be filled
    run: Run
    progress: StepProgress

    @property
    def config(self) -> ConfigT:
        return self.step.config


@dataclass(frozen=True)
class FileStep(Step[ConfigT]):
    """A step that makes a folder of files, in the driver.

    ``make`` fills it and returns counts.

    The folder bears the step's fingerprint, and counts for nothing until the step's record is written. What
    a stopped run left in it is deleted first, unless the step ``resumes`` by itself, as training does.
    """

    make: Callable[[StepContext[ConfigT]], dict[str, int]] = field(kw_only=True)
    resumes: bool = False
    shows_rows: bool = False  # made again when a takedown took rows out of an input


@dataclass(frozen=True)
class FinishedStep:
    """A step whose result exists, read off its record."""

    record: Record
    table: str | None = None
    replaces: str = ""  # as of a ShardStep
    has_files: bool = False  # a FileStep's result; else, without a table, staged shards
    config: BaseModel | None = None  # as the recipe completes it

    @property
    def name(self) -> str:
        return self.record.step

    @property
    def fingerprint(self) -> str:
        return self.record.fingerprint

    @property
    def kind(self) -> StepKind | None:
        return self.record.kind

    @property
    def part(self) -> str:
        return self.record.part


def table_of(step: HasResult) -> str | None:
    """Table that a step's result is a version of, if any."""
    return step.table if isinstance(step, ShardStep | FinishedStep) else None


def config_of(step: HasResult) -> BaseModel | None:
    """Config of a step, as far as it is known."""
    return step.config if isinstance(step, Step | FinishedStep) else None


def changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Differing values as text: ``["max_side 512 -> 768"]``."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name} {_short(old)} -> {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = (
        "none"
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 48 else text[:45] + "..."
