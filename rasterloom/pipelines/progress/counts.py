"""Counts that a step reports beside its position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rasterloom.pipelines.step import Shard
from rasterloom.pipelines.workspace.staging import Published


@dataclass(frozen=True)
class Workers:
    """Workers that the step holds from now on, until it says otherwise."""

    count: int
    cpus: float | None = None
    """Of each; None: as before."""
    gpus: float | None = None


@dataclass(frozen=True)
class ShardPlan:
    """Shards of the step, and what a worker at one takes."""

    left: Sequence[Shard]
    earlier: Sequence[Published]
    """Results of shards that were done before."""
    cpus: float
    gpus: float


@dataclass(frozen=True)
class InFlight:
    """Shards that Ray was given, in their order."""

    ids: Sequence[str]
    room: int
    """Shards that can be at work at once."""


@dataclass(frozen=True)
class Lost:
    """A shard whose worker or node died."""


@dataclass(frozen=True)
class Unit:
    """Name of what the step counts: steps, files, tokens ..."""

    name: str


@dataclass(frozen=True)
class Note:
    """A remark that stands until the step advances."""

    text: str


@dataclass(frozen=True)
class Figures:
    """Values that training measured in its latest step."""

    values: Mapping[str, float] = field(default_factory=dict)


Count = Workers | ShardPlan | InFlight | Published | Lost | Unit | Note | Figures
