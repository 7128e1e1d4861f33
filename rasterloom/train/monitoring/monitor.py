"""Monitoring of a stage: log, held-out losses, previews of fixed prompts."""

import resource
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.train.data.groups import Groups
from rasterloom.train.data.token_dataset import TokenRows
from rasterloom.train.devices import device_name
from rasterloom.train.distributed import gathered, on_rank_0
from rasterloom.train.estimate.flops import mfu, train_flops
from rasterloom.train.job import StageJob
from rasterloom.train.model.packed_lm import own_attention
from rasterloom.train.model.shapes import shape_of_config
from rasterloom.train.monitoring.heldout import evaluate
from rasterloom.train.monitoring.metrics_log import MetricsLog, StepSums, flat
from rasterloom.train.monitoring.step_profile import StepProfile
from rasterloom.train.monitoring.tally import Sums, Tally
from rasterloom.train.monitoring.trackers import Tracker, open_trackers
from rasterloom.train.sampling.sampler import Sampler
from rasterloom.utils.json_files import read_json, write_json

_SUMS = ("tokens", "loss_tokens", "seconds")  # of all ranks, since the last summary


class Monitor:
    """Monitor of an engine that trains.

    Every rank has one and calls the same of it; rank 0 writes.
    """

    def __init__(
        self, engine: Any, job: StageJob, rows: TokenRows, held: NDArray[np.int64], *, start: int, total: int
    ) -> None:
        """Open log and trackers of a stage's ``total`` steps from ``start`` on."""
        self.engine, self.job, self.rows, self.held = engine, job, rows, held
        self.start, self.total = start, total
        self.device = next(engine.parameters()).device
        self.tally = Tally(Groups.of(rows), self.device)
        self.writes = dist.get_rank() == 0
        self.trackers: list[Tracker] = []
        if self.writes:
            settings = {"stage": job.stage.model_dump(), "init": job.init, "tokens": job.tokens_snapshot}
            self.trackers = open_trackers(
                job.train.trackers, job.folder, run=job.digest(), settings=settings, keep=start
            )
        log = job.metrics_file if self.writes else None
        self.log = MetricsLog(log, keep=start, trackers=self.trackers)
        self._began = time.monotonic()
        self._tokens, self._loss_tokens, self._seconds = 0, 0, 0.0  # since the tally was read
        self._take_up_sums()
        profile = job.train.profile if self.writes else None
        self.profile = StepProfile(profile, job.profiles_dir, job.stage.label) if profile else None

    def begin(self) -> None:
        """Measure before the first step, or forget steps that were lost."""
        if self.start == 0:
            if self.writes:
                write_json(self.job.heldout_file, {})
            self.measure(0)
        elif self.writes and self.start < self.total:
            seen = read_json(self.job.heldout_file)
            seen.pop("end", None)
            seen["steps"] = {at: of for at, of in seen["steps"].items() if int(at) <= self.start}
            write_json(self.job.heldout_file, seen)

    def before(self, step: int) -> None:
        """Begin what is to be seen of a step, counted from 1."""
        if self.profile is not None:
            self.profile.before(step)

    def keep_sums(self, step: int) -> None:
        """Write the sums since the last summary; every rank calls this.

        They belong to the checkpoint of this step: a stage that resumes takes them up, so that its next
        summary is of all the steps.
        """
        sums = self.tally.total()
        if self.writes:
            kept = {"step": step, "by_cell": sums.by_cell.tolist(), "squares": sums.squares}
            kept |= {"waited": sums.waited, "tokens": self._tokens, "loss_tokens": self._loss_tokens}
            write_json(self.job.sums_file, kept | {"seconds": self._seconds})

    def _take_up_sums(self) -> None:
        """Go on from the sums of the checkpoint. Those of earlier versions have none."""
        file = self.job.sums_file  # of rank 0, which may be on another machine
        kept = on_rank_0(lambda: read_json(file) if self.start and file.is_file() else {})
        if kept.get("step") != self.start:
            return
        self._tokens, self._loss_tokens, self._seconds = (kept[n] for n in _SUMS)
        if self.writes:
            by_cell = np.array(kept["by_cell"], dtype=np.float64)
            self.tally.take_up(Sums(by_cell, kept["squares"], kept["waited"]))

    def note(
        self, sums: StepSums, *, step: int, lr: float, seconds: float, wait: float, refused: str | None = None
    ) -> dict[str, Any]:
        """Note a step, counted from 1, and return its note.

        Args:
            refused: why the step was not taken, if it was not.
            seconds: that the step took, without ``wait``.
            wait: seconds before it in which this rank waited for its batch.
        """
        self.tally.wait(wait)
        self._tokens += sums.tokens
        self._loss_tokens += sums.loss_tokens
        self._seconds += seconds + wait
        due = step == self.total or step % self.job.train.log_every == 0
        more = self._summary(step) if due else {}
        more |= {"note": refused} if refused else {}
        return self.log.write(sums, step=step, total=self.total, lr=lr, seconds=seconds, more=more)

    def _summary(self, step: int) -> dict[str, Any]:
        """Summary of the steps since the last one, which reads the tally."""
        sums = self.tally.read()
        flops = train_flops(
            shape_of_config(self.engine.module.lm.config.to_dict()),
            tokens=self._tokens,
            squares=round(sums.squares),
            loss_tokens=self._loss_tokens,
        )
        devices = [device_name(self.device)] * dist.get_world_size()
        share = mfu(flops, self._seconds, devices)
        pace = (time.monotonic() - self._began) / (step - self.start)
        summary = {
            "wait_share": round(sums.waited / max(self._seconds, 1e-9), 4),
            **({} if share is None else {"mfu": round(share, 4)}),
            "memory_bytes": _peak_memory(self.device),
            "eta_s": round(pace * (self.total - step), 1),
            **self.tally.groups.losses(sums.by_cell),
        }
        self._tokens, self._loss_tokens, self._seconds = 0, 0, 0.0
        return summary

    def look(self, step: int) -> None:
        """Measure and draw what is due after a step."""
        train = self.job.train
        if self.profile is not None:
            self.profile.after(step)
        if step == self.total or (train.evaluate_every and step % train.evaluate_every == 0):
            self.measure(step)
        if train.sample_every and (step == self.total or step % train.sample_every == 0):
            self.draw(step)

    def measure(self, step: int) -> None:
        """Measure the held-out loss. ``heldout.json`` has it under ``steps``, and ``start`` and ``end``."""
        at_once, together = self.job.train.tokens_at_once, self.job.stage.batch_tokens
        tokens = min(at_once * dist.get_world_size(), together) if at_once else together
        losses = evaluate(self.engine, self.rows, self.held, tokens, self.device)
        if not self.writes:
            return
        seen = {"start": losses, "steps": {}} | read_json(self.job.heldout_file)
        seen["steps"][str(step)] = losses
        write_json(self.job.heldout_file, seen | ({"end": losses} if step == self.total else {}))
        for tracker in self.trackers:
            tracker.scalars(flat(losses, "heldout"), step)

    def draw(self, step: int) -> None:
        """Generate the previews' codes into ``samples/step-<n>.json``; the driver decodes them.

        Each rank draws some of them. With ZeRO-3 every rank draws the same, one after the other, for a
        forward pass takes all ranks.
        """
        drawing = self.job.preview
        if drawing is None:
            return
        lm, count = self.engine.module.lm, len(drawing.prompt_ids)
        sampler = Sampler(lm, self.job.profile)
        mine = slice(0, count)
        if self.engine.zero_optimization_stage() == 3:
            sampler.batch = 1
        else:
            each = -(-count // dist.get_world_size())
            sampler.first = dist.get_rank() * each
            mine = slice(sampler.first, sampler.first + each)
        self.engine.eval()
        with own_attention(lm):
            drawn = sampler.sample(
                drawing.prompt_ids[mine],
                drawing.sizes[mine],
                cfg=drawing.cfg,
                temperature=drawing.temperature,
                top_k=drawing.top_k,
                seed=drawing.seed,
            )
        self.engine.train()
        codes = [grid for of_rank in gathered(drawn) for grid in of_rank][:count]
        if self.writes:
            told = {name: value for name, value in asdict(drawing).items() if name != "prompt_ids"}
            self.job.samples_dir.mkdir(exist_ok=True)
            record = {"step": step, **told, "codes": [grid.tolist() for grid in codes]}
            write_json(self.job.samples_dir / f"step-{step:08d}.json", record)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()
        if self.profile is not None and error is None:
            self.profile.close()
        for tracker in self.trackers:
            tracker.close()


def _peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
