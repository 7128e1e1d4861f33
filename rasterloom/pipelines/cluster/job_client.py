"""The jobs of a Ray cluster, through Ray's Jobs API."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console

from rasterloom.errors import DONE, FAILED, STOPPED, USELESS, WRONG_USE, StepFailed
from rasterloom.pipelines.cluster.job_view import JobView
from rasterloom.pipelines.progress.log_lines import where_at
from rasterloom.utils.ray_compat import quiet_clients, server_version
from rasterloom.utils.retry import RetryPolicy

T = TypeVar("T")
OURS = "rasterloom"  # key in a job's metadata: the recipe's corpus
PENDING_S = 5.0  # that a job may take to start before its reason is printed
WAIT_S = 0.5  # between two questions whether a job has ended
GOING = ("PENDING", "RUNNING")
STARTS_S = 60.0  # that a head which has just come up may take until it takes jobs
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
TOKEN = (
    "the cluster asks for its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds it "
    "(docs/cluster.md)"
)


@dataclass(frozen=True)
class Job:
    """A job as the list shows it."""

    id: str
    status: str
    corpus: str
    """Empty where it was not submitted by Rasterloom."""
    began: datetime | None
    seconds: float | None
    entrypoint: str
    message: str
    driver_code: int | None
    """Exit code of its driver, where Ray saw it end."""

    @property
    def exit_code(self) -> int:
        """Exit code that says of an ended job what its command's would."""
        if self.status == "FAILED":
            return self.driver_code if self.driver_code in (WRONG_USE, STOPPED, USELESS) else FAILED
        return DONE if self.status == "SUCCEEDED" else STOPPED

    @property
    def last_words(self) -> str:
        """Last line of its log that says something.

        Ray puts it into its message.
        """
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def ours(self) -> bool:
        """True if the job runs Rasterloom, whoever submitted it."""
        return bool(self.corpus) or "rasterloom" in self.entrypoint


@dataclass(frozen=True)
class Jobs:
    """Client of a cluster's jobs; failures are StepFailed of one line."""

    address: str
    _client: Any
    """Ray's JobSubmissionClient."""

    @classmethod
    def open(cls, address: str) -> "Jobs":
        """Connect to a cluster. StepFailed: no answer, or access denied."""
        from ray.job_submission import JobSubmissionClient  # heavy

        quiet_clients()
        with _as_given(address):
            return cls(address, _ask(address, lambda: JobSubmissionClient(address)))

    @property
    def version(self) -> str:
        """Version of Ray at the cluster."""
        return server_version(self._client)

    def submit(self, **given: Any) -> str:
        """Submit a job; return its id.

        A head that has just come up is waited for.
        """
        try:
            return str(
                STARTING.call(
                    "submission of a job", lambda: self._ask(lambda: self._client.submit_job(**given))
                )
            )
        except StepFailed as error:
            if not _has_no_agent(error):
                raise
            raise StepFailed(
                f"{error} Its nodes' agents do not run: dashboard_agent.log on them says why; where "
                "a machine has two Rays, `ray start --dashboard-agent-listen-port` gives each its own"
            ) from None

    def all(self) -> list[Job]:
        """All jobs that the cluster remembers, the latest first."""
        found = [_job(info) for info in self._ask(self._client.list_jobs) if info.submission_id]
        return sorted(found, key=lambda job: job.began or datetime.now(UTC), reverse=True)

    def find(self, end: str) -> str:
        """Return the one job whose id ends so, or raise StepFailed.

        Of an empty ``end`` the latest of Rasterloom's that goes on, or else that has ended.
        """
        if not end:
            return self._latest()
        found = [job.id for job in self.all() if job.id.endswith(end)]
        if len(found) != 1:
            what = "no job" if not found else f"{len(found)} jobs, {', '.join(found)},"
            raise StepFailed(f"{self.address}: {what} of an id that ends in {end}; `rasterloom jobs list`")
        return found[0]

    def _latest(self) -> str:
        ours = [job for job in self.all() if job.ours]
        if not ours:
            raise StepFailed(f"{self.address}: no job of Rasterloom")
        return next((job.id for job in ours if job.status in GOING), ours[0].id)

    def status(self, job: str) -> str:
        return str(self._ask(lambda: self._client.get_job_status(job)).value)

    def job(self, job: str) -> Job:
        return _job(self._ask(lambda: self._client.get_job_info(job)))

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node, by Ray's names."""
        from ray.util.state import list_nodes  # heavy

        # Ray takes the nodes that are gone, which it leaves out as asked, for data that is missing.
        asked: dict[str, Any] = {"limit": 10_000, "raise_on_missing_output": False}
        with _as_given(self.address):
            found = self._ask(lambda: list_nodes(self.address, filters=[("state", "=", "ALIVE")], **asked))
        return [dict(node.resources_total) for node in found]

    def logs(self, job: str) -> str:
        return str(self._ask(lambda: self._client.get_job_logs(job)))

    def stop(self, job: str) -> bool:
        """Stop a job and wait; return whether it was running."""
        was_running: bool = self._ask(lambda: self._client.stop_job(job))
        while was_running and self.running(job):
            time.sleep(0.5)
        return was_running

    def running(self, job: str) -> bool:
        return self.status(job) in GOING

    def wait(self, job: str) -> str:
        """Wait until a job ends; return its status."""
        while self.running(job):
            time.sleep(WAIT_S)
        return self.status(job)

    def follow(self, job: str, console: Console) -> str:
        """Print a job's log until it ends; return its status."""

        async def tail(view: JobView) -> None:
            async for text in self._client.tail_job_logs(job):
                view.write(text)

        began = time.monotonic()
        shown = False
        while self.status(job) == "PENDING":  # and one line where there is no such job
            if not shown and time.monotonic() - began > PENDING_S:
                console.print(f"{job} waits: {self.job(job).message}", markup=False, highlight=False)
                shown = True
            time.sleep(0.5)
        with JobView(console) as view:
            self._ask(lambda: asyncio.run(tail(view)))
        return self.wait(job)

    def step_of(self, job: Job) -> str:
        """Return the position of a running job, from its log."""
        return where_at(self.logs(job.id)) if job.status == "RUNNING" else ""

    def _ask(self, question: Callable[[], T]) -> T:
        return _ask(self.address, question)


def _ask(address: str, question: Callable[[], T]) -> T:
    """Return a cluster's answer. StepFailed: there is none, or an error."""
    from ray.exceptions import AuthenticationError  # heavy

    try:
        return question()
    except AuthenticationError as error:
        raise StepFailed(f"{address}: {str(error).splitlines()[0]}: {TOKEN}") from None
    except ConnectionError:
        raise StepFailed(
            f"nobody answers at {address}: it takes the address of the cluster's dashboard, such as "
            "http://head:8265; is the port open from here?"
        ) from None
    except Exception as error:  # whatever answers there may say anything
        if "Invalid address" in str(error):
            raise StepFailed(f"{address!r} is no address of a dashboard, such as http://head:8265") from None
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise StepFailed(f"{address}: {lines[-1].strip() if lines else error!r}") from None


def _has_no_agent(error: BaseException) -> bool:
    """Return whether a head has no agent yet to run jobs."""
    return isinstance(error, StepFailed) and "No available agent" in str(error)


# A head that has just come up is waited for.
STARTING = RetryPolicy(_has_no_agent, tries=1000, base_s=1.0, cap_s=1.0, jitter=0.0, deadline_s=STARTS_S)


@contextmanager
def _as_given(address: str) -> Iterator[None]:
    """Hide the variables that Ray prefers to a given address."""
    names = (ADDRESS_VARIABLE, "RAY_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _job(info: Any) -> Job:
    began = datetime.fromtimestamp(info.start_time / 1000, UTC) if info.start_time else None
    ended = info.end_time / 1000 if info.end_time else time.time()
    return Job(
        id=info.submission_id,
        status=info.status.value,
        corpus=(info.metadata or {}).get(OURS, ""),
        began=began,
        seconds=ended - began.timestamp() if began else None,
        entrypoint=info.entrypoint,
        message=info.message or "",
        driver_code=info.driver_exit_code,
    )
