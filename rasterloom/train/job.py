"""What a training stage is given, and what it leaves behind."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem

from rasterloom.recipe import Stage, Train
from rasterloom.schema import Profile
from rasterloom.train.sizes import SIZES


@dataclass(frozen=True)
class StageJob:
    """One stage of FP-SFT, as plain values that can be sent to any worker."""

    stage: Stage
    train: Train
    profile: Profile
    token_files: tuple[str, ...]
    """Parquet files of the stage's rows, in `schema.TOKENS`; their order is part of the job."""
    filesystem: FileSystem | None
    """Where ``token_files`` are; None: on this machine."""
    tokens_snapshot: str
    """Version of the token table that the files belong to; noted in checkpoints."""
    init: str
    """Folder of the weights to start from, or a size of a model from scratch."""
    out_dir: str
    """Folder for all output; with workers on several machines it must be one that they share."""
    token_index: str | None = None
    """Length index of ``token_files``, beside them; None: they are opened one by one to plan."""
    workers: int = 2
    use_gpu: bool = False
    cpus_per_worker: int = 1
    """Threads of a worker."""
    max_failures: int = 3
    """How often lost workers are replaced before the stage fails."""

    @property
    def folder(self) -> Path:
        return Path(self.out_dir)

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoint_dir(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def heldout_file(self) -> Path:
        return self.folder / "heldout.json"

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"

    def digest(self) -> str:
        """Identify what is computed; how many workers do it, and where, is left out.

        ``checkpoint_every`` and the recipe's other stages do not change this stage, so they are left out.
        """
        what = {
            "stage": self.stage.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json", exclude={"stages", "init", "checkpoint_every"}),
            "profile": asdict(self.profile),
            "files": self.token_files,
            "snapshot": self.tokens_snapshot,
            "init": self.init,
        }
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class StageResult:
    """A finished stage."""

    model_dir: str
    steps: int
    tokens: int
    """Tokens trained on, over all workers."""
    seconds: float
    """Spent in optimizer steps; of a resumed stage, over all attempts."""
    loss: float
    """Mean of the last tenth of the steps."""
    heldout: Mapping[str, Any]
    """As in ``heldout.json``: loss, tokens and rows at the start and the end, in all and a bucket."""


def finished(job: StageJob) -> StageResult | None:
    """Return the result if this very job has already been done."""
    if not job.result_file.is_file():
        return None
    record = json.loads(job.result_file.read_text())
    if record.pop("job") != job.digest():
        return None
    return StageResult(model_dir=str(job.model_dir), **record)


def check(job: StageJob) -> None:
    """Look for what would fail later, before any worker is started.

    Raises:
        ValueError: there are no token files, or the weights to start from are missing or do not fit.
    """
    if not job.token_files:
        raise ValueError(f"there are no tokens of target {job.stage.target} to train on")
    if job.init not in SIZES:
        from rasterloom.train.start import check_checkpoint  # it brings torch

        check_checkpoint(job.init, job.profile)
