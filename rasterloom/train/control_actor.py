"""Messages between a stage's driver and workers, through a Ray actor."""

from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rasterloom.train.job import Request

Record = dict[str, Any]
"""Notes on a step, a line of ``metrics.jsonl``."""


@dataclass
class State:
    """State of the workers, for the driver."""

    has_begun: bool = False
    starts: int = 0
    """Times that rank 0 has begun: more than one where workers were lost and replaced."""
    record: Record = field(default_factory=dict)
    """Of the last step; empty before the first."""


class ControlActor:
    """Actor with the last step's record and the driver's request to stop."""

    def __init__(self) -> None:
        self._state, self._stop = State(), False

    def begin(self, rank: int) -> None:
        """Note that a worker has begun."""
        self._state.has_begun = True
        self._state.starts += rank == 0

    def write(self, record: Record) -> bool:
        """Note a step; returns whether to stop."""
        last = self._state.record
        measured = {name: last[name] for name in ("mfu",) if name in last}  # it is not measured at every step
        self._state.record = {**measured, **record}
        self._state.has_begun = True  # a board that was started again has not been told
        return self._stop

    def state(self) -> State:
        return self._state

    def stop(self) -> None:
        self._stop = True

    def is_stopped(self) -> bool:
        return self._stop


def start_control_actor() -> Any:
    """Start the actor on this node, which the stage ends with anyway: elsewhere it could go with a worker's.

    One that is killed is started again, and who asks it waits for that. Each step writes a new record, and
    the driver repeats its request.

    Returns:
        Ray's handle of a `ControlActor`.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(**options, scheduling_strategy=here)(ControlActor).remote()


class WorkerChannel:
    """A worker's end of the messages. It waits for none of them while the stage trains."""

    def __init__(self, control: Any, *, rank: int, workers: int) -> None:
        self._control, self._workers = control, workers
        self._answer: Any = None
        self._stop = False
        self._skipped = 0
        control.begin.remote(rank)

    def write(self, record: Record) -> None:
        """Send a step's record, unless an earlier one is in transit. Steps that were skipped all count."""
        self._skipped += "note" in record
        if self._answer is not None:
            answered, _ = ray.wait([self._answer], timeout=0)
            if not answered:
                return
            self._stop = ray.get(self._answer)
        self._answer = self._control.write.remote(
            {**record, "workers": self._workers, "skipped": self._skipped}
        )

    def request(self) -> Request:
        """Request of the driver, as of its last answer."""
        return Request.STOP if self._stop else Request.NOTHING

    def is_stopped(self) -> bool:
        """True if the driver has asked to stop; waits for its answer."""
        return bool(ray.get(self._control.is_stopped.remote()))
