"""Job and result of a training stage."""

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem

from rasterloom.recipe.train import SECTIONS_OF_A_STAGE, SPEED_ONLY, Stage, Train
from rasterloom.schema import Profile
from rasterloom.storage.layout import CHECKPOINTS, MODEL, MODEL_EMA, PROFILES
from rasterloom.storage.store import Store
from rasterloom.utils import private_folders

OUTPUT = "output"  # beside the checkpoints on S3: what a stage leaves behind


class Request(enum.IntEnum):
    """A request to a worker from outside, between two steps. The larger prevails."""

    NOTHING = 0
    SAVE = 1
    """A checkpoint: a machine may soon be gone."""
    STOP = 2
    """A checkpoint, and an end."""


@dataclass(frozen=True)
class Preview:
    """Preview images of fixed prompts, every ``train.sample_every`` steps."""

    prompts: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    """Of each prompt, from bos to the separator before boi."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image in pixels."""
    cfg: float
    temperature: float
    top_k: int
    seed: int


@dataclass(frozen=True)
class Vocabulary:
    """Text vocabulary of a model, which is stored with it."""

    tokenizer_json: str
    """Contents of the file."""
    first_id: int
    """Id of the model for the tokenizer's id 0."""
    digest: str
    """Digest of the ids with the texts they stand for."""


@dataclass(frozen=True)
class PartFiles:
    """Token files of a part of a job's mixture."""

    files: int
    """How many; they follow those of the part before."""
    index: str | None = None
    """Their length index; None: they are opened one by one to plan."""
    weight: float | None = None
    """Share of the tokens, beside other parts' weights."""
    tasks: tuple[str, ...] = ()
    """Only rows of these tasks; of all when empty."""


@dataclass(frozen=True)
class WorkerTakes:
    """Resources that a worker takes of its node."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    """Bytes that Ray sets aside; 0: it does not count them."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom ones."""
    accelerator: str | None = None
    """Kind of GPU, as Ray names them."""
    placement: str = "PACK"
    """How Ray places the workers: ``PACK``, ``SPREAD``, ``STRICT_PACK`` or ``STRICT_SPREAD``."""

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    @property
    def needs(self) -> dict[str, float]:
        """In Ray's words, without what is not asked for."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory), **self.resources}
        return {name: amount for name, amount in asked.items() if amount}


@dataclass(frozen=True)
class StageJob:
    """One stage of FP-SFT, as plain values for any worker."""

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
    """Folder of the weights to start from, or ``tiny``."""
    out_dir: str
    """Folder for all output; with workers on several machines it must be one that they share."""
    vocabulary: Vocabulary | None = None
    """Written beside the model; the token files decide its ids. None: the model has none with it."""
    init_digest: str = ""
    """Identity of these weights, which does not change with their place; empty: ``init`` stands for them."""
    token_index: str | None = None
    """Length index of ``token_files``, beside them; None: they are opened one by one to plan."""
    mixture: tuple[PartFiles, ...] = ()
    """The parts that ``token_files`` make, each with an index of its own; all are one part when empty."""
    keep_optimizer_from: str | None = None
    """Folder of the stage before (or ``s3://bucket/prefix``), with the ``checkpoints`` whose optimizer state
    this one starts with; None: it starts with none."""
    workers: int = 2
    """At most so many."""
    min_workers: int | None = None
    """At least so many, where fewer than ``workers`` find room; None: just so many."""
    takes: WorkerTakes = WorkerTakes()
    """What a worker takes; it works with as many threads as it has CPUs."""
    max_failures: int = 3
    """How often lost workers are replaced before the stage fails."""
    room_wait_s: float = math.inf
    """Longest wait of workers for room, after which the stage fails."""
    checkpoints: str | None = None
    """Folder or ``s3://bucket/prefix`` of the checkpoints, where every machine reaches it; None: in
    ``out_dir``. On S3 it also holds what else a stage leaves behind, so that ``out_dir`` may be each
    machine's own."""
    preview: Preview | None = None
    """Generated while the stage trains; it changes nothing in the weights."""

    @property
    def use_gpu(self) -> bool:
        return self.takes.gpus > 0

    @property
    def parts(self) -> tuple[PartFiles, ...]:
        return self.mixture or (PartFiles(len(self.token_files), self.token_index),)

    @property
    def folder(self) -> Path:
        return Path(self.out_dir)

    def make_folder(self) -> None:
        """Make the folder on this node. Raises: StorageError, where another user's is in its place."""
        if self.checkpoints:
            private_folders.make_folder(self.folder)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def model_dir(self) -> Path:
        return self.folder / MODEL

    @property
    def average_dir(self) -> Path:
        """Folder of the model with the average of the weights (``train.ema``)."""
        return self.folder / MODEL_EMA

    @property
    def checkpoint_store(self) -> Store:
        return Store(self.checkpoints or str((self.folder / CHECKPOINTS).absolute()))

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def heldout_file(self) -> Path:
        return self.folder / "heldout.json"

    @property
    def sums_file(self) -> Path:
        """File with the sums since the last summary, for a checkpoint."""
        return self.folder / "sums.json"

    @property
    def profiles_dir(self) -> Path:
        return self.folder / PROFILES

    @property
    def samples_dir(self) -> Path:
        return self.folder / "samples"

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"

    def digest(self) -> str:
        """Identify what is computed. How many workers do it, and where, is left out.

        What only changes how it is computed (`recipe.train.SPEED_ONLY`) and the recipe's other stages do not
        change this stage, so they are left out.
        """
        what = {
            "stage": self.stage.model_dump(mode="json", exclude=set(SECTIONS_OF_A_STAGE)),
            "number": self.train.stage_number,
            "train": self.train.model_dump(mode="json", exclude={**SPEED_ONLY, "stages": True, "init": True}),
            "profile": asdict(self.profile),
            "files": self.token_files,
            "mixture": [(part.files, part.weight, part.tasks) for part in self.parts],
            "snapshot": self.tokens_snapshot,
            "init": self.init_digest or self.init,
            "optimizer_from": self.keep_optimizer_from,
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
    """As in ``heldout.json``: loss, tokens and rows at ``start``, ``end`` and ``steps``, in all, by task and
    by bucket."""


def finished(job: StageJob) -> StageResult | None:
    """Return the result if this very job has already been done."""
    if not job.result_file.is_file():
        return None
    record = json.loads(job.result_file.read_text())
    if record.pop("job") != job.digest():
        return None
    return StageResult(model_dir=str(job.model_dir), **record)
