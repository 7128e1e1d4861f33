"""``rasterloom submit`` and ``rasterloom jobs``: runs on a Ray cluster."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rasterloom.cli_common import AsFormat, OutputFormat, RecipePath, Retry, Until, out

if TYPE_CHECKING:
    from rasterloom.pipelines.jobs import Jobs

Address = Annotated[
    str,
    typer.Option(help="Address of the Ray cluster's dashboard.", envvar="RAY_API_SERVER_ADDRESS"),
]
LOCAL = "http://127.0.0.1:8265"
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or its last characters.")]

app = typer.Typer(help="List, follow and stop the jobs of a Ray cluster.")


def submit_command(
    recipe: RecipePath,
    address: Address = LOCAL,
    until: Until = None,
    retry: Retry = "",
    follow: Annotated[bool, typer.Option(help="Show the job's log until it ends.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Give the job this variable of yours; its value is not shown."),
    ] = None,
    code: Annotated[bool, typer.Option(help="Take this installation's code along, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the job; send nothing.")] = False,
) -> None:
    """Run a recipe as a job of a Ray cluster. The recipe's folder goes along.

    What is finished stays in the workspace: submit again after a stop, and the job goes on from there.
    """
    from rasterloom.pipelines.jobs import Jobs
    from rasterloom.pipelines.submit import prepare, submit

    job = prepare(recipe, until, retry, env or [], code)
    if dry_run:
        takes = ", ".join(f"{k.removeprefix('entrypoint_')} {v}" for k, v in job.takes.items() if v)
        out.print(f"entrypoint: {job.entrypoint}", highlight=False, markup=False)
        out.print(f"the driver takes: {takes or 'nothing, on the head node'}", highlight=False, markup=False)
        out.print(f"variables: {', '.join(job.variables) or 'none'}", highlight=False, markup=False)
        out.print(f"files of {job.package.folder}, {job.package.size / 2**20:.1f} MiB:", highlight=False)
        for name, size in job.package.files.items():
            out.print(f"  {size:>12,}  {name}", highlight=False, markup=False)
        return
    jobs = Jobs(address)
    found = submit(job, jobs)
    out.print(f"submitted as {found}", highlight=False)
    if follow:
        _follow(jobs, found)
        return
    out.print(f"rasterloom jobs follow {found} --address {address}", highlight=False, markup=False)


@app.command("list")
def list_command(
    address: Address = LOCAL,
    everything: Annotated[bool, typer.Option("--all", help="Jobs of others too.")] = False,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """List the cluster's jobs, the latest first."""
    from rasterloom.pipelines.jobs import Jobs

    found = [job for job in Jobs(address).all() if everything or job.ours]
    if output is OutputFormat.JSON:
        for job in found:
            print(json.dumps({**job.__dict__, "began": job.began and job.began.isoformat()}))
        return
    table = Table("id", "corpus", "status", "began", "took", "", box=None, pad_edge=False)
    for job in found:
        began = f"{job.began:%Y-%m-%d %H:%M}" if job.began else ""
        took = f"{job.seconds / 60:,.1f} min" if job.seconds is not None else ""
        said = " ".join(job.message.split())[:60] if job.status == "FAILED" else ""
        table.add_row(*map(escape, (job.id, job.corpus, job.status, began, took, said)))
    if found:
        out.print(table, highlight=False)
    else:
        out.print("No jobs of Rasterloom there; --all shows those of others.")


@app.command("follow")
def follow_command(job: JobId, address: Address = LOCAL) -> None:
    """Show a job's log as it grows, until the job ends. Ctrl-C stops the showing, not the job."""
    from rasterloom.pipelines.jobs import Jobs

    jobs = Jobs(address)
    _follow(jobs, jobs.find(job))


@app.command("logs")
def logs_command(job: JobId, address: Address = LOCAL) -> None:
    """Print a job's log as it is now."""
    from rasterloom.pipelines.jobs import Jobs

    jobs = Jobs(address)
    print(jobs.logs(jobs.find(job)), end="")


@app.command("stop")
def stop_command(job: JobId, address: Address = LOCAL) -> None:
    """Stop a job. What it finished stays; submit the recipe again and it goes on from there."""
    from rasterloom.pipelines.jobs import Jobs

    jobs = Jobs(address)
    found = jobs.find(job)
    if jobs.stop(found):
        out.print(f"{found}: {jobs.status(found)}; submit its recipe again to go on", highlight=False)
    else:
        out.print(f"{found}: it had ended before, {jobs.status(found)}", highlight=False)


def _follow(jobs: "Jobs", job: str) -> None:
    try:
        succeeded = jobs.follow(job, out)
    except KeyboardInterrupt:
        out.print(f"\nThe job goes on; rasterloom jobs stop {job} --address {jobs.address}", highlight=False)
        return
    if not succeeded:
        raise typer.Exit(1)
