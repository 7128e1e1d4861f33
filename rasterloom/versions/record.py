"""Record of a step's result: explains it, skips it, traces it."""

import getpass
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rasterloom.schema import StepKind

PREFIX = "rasterloom."
BEFORE_TAKEDOWN = "before takedown"  # in `parents`: the version that a takedown took rows out of


@dataclass(frozen=True)
class Record:
    """Record of one finished step.

    It travels as snapshot properties or as a JSON file.
    """

    step: str
    fingerprint: str
    code_version: str
    config: dict[str, Any]
    inputs: dict[str, str]  # step -> fingerprint
    parents: dict[str, str] = field(default_factory=dict)  # step -> snapshot id
    counts: dict[str, int] = field(default_factory=dict)  # rows by outcome
    rows: int = 0
    n_bytes: int = 0
    shards: int = 0
    seconds: float = 0.0  # wall time of the run that finished the step
    worker_seconds: float = 0.0  # the shards' own time, added up, over all runs
    finished: str = ""  # date and time, UTC
    recipe: str = ""  # digest of the recipe
    package: str = ""  # version of rasterloom
    user: str = ""
    takedowns: int = 0  # how many there were when it was made; none of their rows is in it
    taken_down: int = 0  # the last of them that took rows out of it
    other_settings: dict[str, Any] = field(default_factory=dict)  # as it was made; no part of its identity

    @property
    def kind(self) -> StepKind | None:
        """Kind of the step."""
        return StepKind.of(self.step)

    @property
    def part(self) -> str:
        """Target or stage, where several steps are of the kind; else empty."""
        return StepKind.part(self.step)

    @property
    def of_takedown(self) -> bool:
        """True if a takedown made this version from the one before."""
        return BEFORE_TAKEDOWN in self.parents

    def to_properties(self) -> dict[str, str]:
        """Return the record as Iceberg snapshot properties."""
        return {PREFIX + k: v if isinstance(v, str) else json.dumps(v) for k, v in asdict(self).items()}

    @classmethod
    def from_properties(cls, properties: dict[str, str]) -> "Record | None":
        """Return a snapshot's record; None if no step made it."""
        if PREFIX + "fingerprint" not in properties:
            return None
        values: dict[str, Any] = {}
        for name, spec in cls.__dataclass_fields__.items():
            text = properties.get(PREFIX + name)
            if text is not None:
                values[name] = text if spec.type is str else json.loads(text)
        return cls(**values)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Record":
        return cls(**json.loads(data))

    def signed(self, recipe_digest: str, package: str) -> "Record":
        """Return the record with who and what made it, and when."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):
            user = ""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, recipe=recipe_digest, package=package, user=user, finished=now)
