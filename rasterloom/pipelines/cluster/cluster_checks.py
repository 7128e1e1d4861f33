"""Checks of names, clocks and a Ray cluster."""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from rasterloom.errors import RecipeError, StepFailed
from rasterloom.pipelines.cluster.job_client import Jobs
from rasterloom.pipelines.execution.nodes import in_words, slots
from rasterloom.pipelines.execution.scheduler import needs_of
from rasterloom.pipelines.step import ShardStep
from rasterloom.pipelines.training.stage_step import is_stage, worker_needs, worker_takes
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.resources import DriverTakes
from rasterloom.storage import s3
from rasterloom.versions.corpus import Corpus

SLOW_S = 1.0  # of looking up a name
SKEW_S = 60.0  # a clock that is further off is wrong; S3 refuses 900
ASK_S = 10.0


@dataclass(frozen=True)
class Finding:
    """Result of one check; ``what`` names the remedy if it failed."""

    ok: bool
    what: str


def s3_address() -> str:
    """Return the address of S3 for this process."""
    return s3.endpoint() or f"https://s3.{s3.region()}.amazonaws.com"


def names(corpus: Corpus) -> Iterator[Finding]:
    """Look up the hosts that the recipe leads to."""
    addresses = [s3_address()] if corpus.store.is_s3 else []
    addresses += [uri for name, uri in corpus.catalog_properties if name == "uri" and uri.startswith("http")]
    for host in sorted({urlsplit(address).hostname or "" for address in addresses}):
        started = time.monotonic()
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            yield Finding(
                False, f"the name {host} is not known here ({error.strerror}): see /etc/resolv.conf"
            )
            continue
        took = time.monotonic() - started
        way_out = "" if took < SLOW_S else ": run a caching resolver on each node before you fetch"
        yield Finding(not way_out, f"the name {host} was looked up in {took * 1000:.0f} ms{way_out}")


def clock(corpus: Corpus) -> Iterator[Finding]:
    """Compare this machine's clock with that of the S3 server."""
    if not corpus.store.is_s3:
        return
    address = urlsplit(s3_address())
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=ASK_S)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException) as error:
        yield Finding(
            False, f"{address.geturl()} does not answer ({error}): see AWS_ENDPOINT_URL, and the firewall"
        )
        return
    finally:
        connection.close()
    if date is None:
        yield Finding(True, f"{address.geturl()} does not tell the time, so the clock was not compared")
        return
    skew = time.time() - parsedate_to_datetime(date).timestamp()
    off = f"the clock is {abs(skew):.0f} s {'before' if skew > 0 else 'behind'} that of {address.netloc}"
    way_out = "" if abs(skew) <= SKEW_S else ": set it by NTP; S3 refuses requests at 900 s"
    yield Finding(not way_out, f"{off}{way_out}")


def cluster(address: str, recipe: Recipe | None) -> Iterator[Finding]:
    """Check a Ray cluster: connection, token, version and room for a recipe."""
    import ray  # heavy

    mode = os.environ.get("RAY_AUTH_MODE", "token, as RAY_AUTH_MODE is not set")
    try:
        jobs = Jobs.open(address)
        known = len(jobs.all())
    except StepFailed as error:
        yield Finding(False, f"Ray: {error}")
        return
    yield Finding(True, f"Ray answers at {address}, {known} jobs; auth: {mode}")
    same = jobs.version == ray.__version__
    way_out = "" if same else ": install the same, so that jobs do what they do here"
    yield Finding(same, f"Ray {jobs.version} there, {ray.__version__} here{way_out}")
    if recipe:
        yield from room(recipe, without_driver(jobs.nodes(), recipe.run.driver))


def without_driver(nodes: list[dict[str, float]], driver: DriverTakes) -> list[dict[str, float]]:
    """Return the nodes less the job's driver, on the smallest that fits."""
    needs = {"CPU": 1.0 if driver.cpus is None else driver.cpus, **driver.resources}
    if driver.memory:
        needs["memory"] = float(driver.memory)
    needs = {name: amount for name, amount in needs.items() if amount}
    fitting = [node for node in nodes if slots([node], needs)]
    if not needs or not fitting:
        return nodes
    its = min(fitting, key=lambda node: node.get("CPU", 0.0))
    left = {name: has - needs.get(name, 0.0) for name, has in its.items()}
    return [left if node is its else node for node in nodes]


def room(recipe: Recipe, nodes: list[dict[str, float]]) -> Iterator[Finding]:
    """Check that nodes have room for the workers of each step."""
    try:
        steps = Workflow(recipe).steps
    except RecipeError as error:
        yield Finding(False, str(error))
        return
    asked: dict[tuple[str, int, int], list[str]] = {}
    for step in steps:
        if is_stage(step):
            needs, fewest = worker_needs(step, recipe.run), recipe.run.train_workers.min
            placement = worker_takes(step, recipe.run).placement
        elif isinstance(step, ShardStep):
            needs, fewest, placement = needs_of(step, recipe.run), 1, "PACK"
        else:
            continue  # the driver makes it
        asked.setdefault((in_words(needs), fewest, slots(nodes, needs, placement)), []).append(step.name)
    for (words, fewest, fit), names in asked.items():
        way_out = "" if fit >= fewest else f", of {fewest}: add nodes, or see run.steps and run.train_workers"
        yield Finding(not way_out, f"room for {fit} workers of {words} each ({', '.join(names)}){way_out}")
