"""``rasterloom submit`` and ``rasterloom jobs``: runs on a Ray cluster."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rasterloom.cli.help import App
from rasterloom.cli.options import (
    AsFormat,
    LogAs,
    LogFormat,
    OutputFormat,
    Quiet,
    RecipePath,
    Retry,
    Until,
    err,
    out,
    print_json,
    result,
)
from rasterloom.utils.formatting import clock
from rasterloom.utils.redact import safe

if TYPE_CHECKING:
    from rasterloom.pipelines.cluster.job_client import Jobs

Address = Annotated[
    str,
    typer.Option(help="Address of the Ray cluster's dashboard.", envvar="RAY_API_SERVER_ADDRESS"),
]
LOCAL = "http://127.0.0.1:8265"
JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id, or its last characters.")]
AnyJob = Annotated[
    str,
    typer.Argument(metavar="ID", help="Job id, or its last characters; without it the latest job."),
]

app = App(help="List, follow and stop the jobs of a Ray cluster.")


def submit_command(
    recipe: RecipePath,
    address: Address = LOCAL,
    until: Until = None,
    retry: Retry = "",
    follow: Annotated[bool, typer.Option("--follow", help="Follow the job's log until it ends.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Environment variable to pass to the job; its value is not shown."),
    ] = None,
    code: Annotated[bool, typer.Option("--code", help="Send this installation's code as well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the job, and send nothing.")] = False,
    quiet: Quiet = False,
    log: LogAs = LogFormat.TEXT,
) -> None:
    """Run a recipe as a job of a Ray cluster.

    Finished work stays in the workspace: submit again after a stop, and the job continues from there.
    """
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy
    from rasterloom.pipelines.cluster.submit import prepare, submit  # heavy

    options = [*(["--quiet"] if quiet else []), *(["--log", log.value] if log is not LogFormat.TEXT else [])]
    job = prepare(recipe, until, retry, env or [], code, tuple(options))
    if dry_run:
        takes = ", ".join(f"{k.removeprefix('entrypoint_')} {v}" for k, v in job.takes.items() if v)
        out.print(f"entrypoint: {job.entrypoint}", highlight=False)
        out.print(f"resources of the driver: {takes or 'nothing, on the head node'}", highlight=False)
        out.print(f"variables: {', '.join(job.variables) or 'none'}", highlight=False)
        out.print(f"files of {job.package.folder}, {job.package.size / 2**20:.1f} MiB:", highlight=False)
        for name, size in job.package.files.items():
            out.print(f"  {size:>12,}  {safe(name)}", highlight=False)
        return
    jobs = Jobs.open(address)
    found = submit(job, jobs)
    dashboard = f"{address.rstrip('/')}/#/jobs/{found}"
    lines = [f"submitted as {found}", f"dashboard: {dashboard}"]
    lines += [] if follow else [f"rasterloom jobs follow {found} --address {address}"]
    result(log, lines, job=found, status="SUBMITTED", dashboard=dashboard)
    if follow:
        _follow(jobs, found, log)


@app.command("list")
def list_command(
    address: Address = LOCAL,
    everything: Annotated[bool, typer.Option("--all", help="All jobs, not only Rasterloom's.")] = False,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """List the cluster's jobs, latest first, with the present step of each."""
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy

    jobs = Jobs.open(address)
    found = [job for job in jobs.all() if everything or job.ours]
    if output is OutputFormat.JSON:
        for job in found:
            began = job.began and job.began.isoformat()
            print_json({**job.__dict__, "began": began, "at": jobs.step_of(job)})
        return
    table = Table("id", "corpus", "status", "began", "took", "", box=None, pad_edge=False)
    table.columns[0].no_wrap = True  # other commands take it
    table.columns[0].min_width = max((len(job.id) for job in found), default=0)
    for job in found:
        began = f"{job.began.astimezone():%Y-%m-%d %H:%M}" if job.began else ""
        took = clock(job.seconds) if job.seconds is not None else ""
        message = job.last_words if job.status == "FAILED" else jobs.step_of(job)
        table.add_row(*map(safe, (job.id, job.corpus, job.status, began, took, message)))
    if found:
        out.print(table, highlight=False)
    else:
        out.print("No jobs of Rasterloom; --all shows those of others.")


@app.command("follow")
def follow_command(job: AnyJob = "", address: Address = LOCAL) -> None:
    """Follow a job's log until it ends. Ctrl-C does not stop the job.

    The exit code is that of the job.
    """
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy

    jobs = Jobs.open(address)
    _follow(jobs, jobs.find(job))


@app.command("wait")
def wait_command(job: AnyJob = "", address: Address = LOCAL) -> None:
    """Wait until a job ends. Ctrl-C does not stop the job.

    The exit code is that of the job.
    """
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy

    jobs = Jobs.open(address)
    found = jobs.find(job)
    _until_it_ends(jobs, found, lambda: jobs.wait(found))


@app.command("logs")
def logs_command(job: JobId, address: Address = LOCAL) -> None:
    """Print a job's log."""
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy

    jobs = Jobs.open(address)
    out.print(jobs.logs(jobs.find(job)), end="", highlight=False)


@app.command("stop")
def stop_command(job: JobId, address: Address = LOCAL) -> None:
    """Stop a job. Finished work stays; submit the recipe again to continue."""
    from rasterloom.pipelines.cluster.job_client import Jobs  # heavy

    jobs = Jobs.open(address)
    found = jobs.find(job)
    if jobs.stop(found):
        out.print(f"{found}: {jobs.status(found)}; submit its recipe again to continue", highlight=False)
    else:
        out.print(f"{found}: it had ended before, {jobs.status(found)}", highlight=False)


def _follow(jobs: "Jobs", job: str, log: LogFormat = LogFormat.TEXT) -> None:
    _until_it_ends(jobs, job, lambda: jobs.follow(job, out), log)


def _until_it_ends(jobs: "Jobs", job: str, wait: Callable[[], str], log: LogFormat = LogFormat.TEXT) -> None:
    """Wait for a job, and end with its exit code."""
    try:
        status = wait()
    except KeyboardInterrupt:
        stop = f"rasterloom jobs stop {job} --address {jobs.address}"
        err.print(f"\nThe job continues; {stop}", highlight=False)
        return
    ended = jobs.job(job)
    message = ended.last_words if status == "FAILED" else ""
    result(log, [f"{job}: {status}" + (f": {message}" if message else "")], job=job, status=status)
    raise typer.Exit(ended.exit_code)
