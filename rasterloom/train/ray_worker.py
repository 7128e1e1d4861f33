"""One training worker under Ray Train: its requests from the driver, from signals and from preemption."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import ray
import torch

from rasterloom.errors import StageImpossible, TrainingDiverged
from rasterloom.train.control_actor import WorkerChannel
from rasterloom.train.job import Request, StageJob
from rasterloom.train.stop_signals import SigtermRequest

PREEMPTION_S = 2.0  # between looks for a notice that a machine will go
logger = logging.getLogger(__name__)


class WorkerConfig(TypedDict):
    """Arguments of each worker."""

    job: StageJob
    control: Any
    """Ray's handle of a `ControlActor`."""


@dataclass(frozen=True)
class Outcome:
    """The end of the workers."""

    end: Literal["done", "stopped", "failed"]
    reason: str = ""
    """Of a failure."""


class PreemptionWatch:
    """Waits in a thread for the cloud's preemption notice, through Ray."""

    def __init__(self) -> None:
        self._announced = self._saved = False
        threading.Thread(target=self._look, name="preemption", daemon=True).start()

    def _look(self) -> None:
        """Ask until there is a notice. All workers ask equally often, as Ray wants: to ask is to meet.

        Who asks in vain, since another is late or has ended, asks again.
        """
        while not self._announced:
            try:
                self._announced = ray.train.get_preemption_info() is not None
            except Exception as error:
                logger.debug("no answer on machines that will go: %s", error)
            time.sleep(PREEMPTION_S)
        logger.warning("a machine of the stage will go: a checkpoint is saved")

    def request(self) -> Request:
        """A checkpoint, once: Ray restarts the workers when the machine is gone."""
        if not self._announced or self._saved:
            return Request.NOTHING
        self._saved = True
        return Request.SAVE


def train_worker(config: WorkerConfig) -> Outcome:
    """Train a stage as one worker. Failures that other workers would repeat are returned.

    Raises:
        RuntimeError: this worker alone was told to end. Ray starts the workers again, as after other errors.
    """
    from rasterloom.train.trainer import run_worker  # heavy

    job, context = config["job"], ray.train.get_context()
    channel = WorkerChannel(
        config["control"], rank=context.get_world_rank(), workers=context.get_world_size()
    )
    torch.set_num_threads(job.takes.threads)
    sigterm, preemption = SigtermRequest.installed(), PreemptionWatch()

    def request() -> Request:
        if sigterm.is_made:
            return Request.STOP
        return max(channel.request(), preemption.request())

    try:
        with sigterm.heeded():
            end = run_worker(job, request=request, on_step=channel.write)
    except (StageImpossible, TrainingDiverged) as error:
        return Outcome("failed", str(error))
    if end == "stopped" and not channel.is_stopped():
        raise RuntimeError("a worker was told to end; the stage goes on without it")
    return Outcome(end)
