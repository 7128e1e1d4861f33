"""`jobs wait` and `jobs follow`: which job, what is shown, and the exit code."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from rich.console import Console

from rasterloom.errors import DONE, FAILED, STOPPED, USELESS
from rasterloom.pipelines.cluster import job_client
from rasterloom.pipelines.cluster.job_view import JobView

LOG = ["pairs  new\n  pairs: 1 of", " 3 shards\nworkers were lost\n  pairs: 2 of 3 shards\n", "rest"]


class Cluster(BaseHTTPRequestHandler):
    """The answers of Ray's Jobs API: each job goes on for a few questions, and then has ended."""

    jobs: dict[str, dict[str, object]] = {}  # noqa: RUF012
    questions = 0

    def do_GET(self):
        name = self.path.removeprefix("/api/jobs/").strip("/")
        if self.path.startswith("/api/version"):
            answer = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}
        elif name in self.jobs:
            Cluster.questions += 1
            going = {} if Cluster.questions > 3 else {"status": "RUNNING"}
            answer = self.jobs[name] | going
        else:
            answer = list(self.jobs.values())
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def job(name, status, began, code=None, ours=True):
    metadata = {"rasterloom": "1", "corpus": "c"} if ours else {}
    ended = {} if status in ("RUNNING", "PENDING") else {"end_time": began + 1}
    return {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "python x.py",
        "message": "why: it said so" if status == "FAILED" else "",
        "metadata": metadata,
        "start_time": began,
        "driver_exit_code": code,
        **ended,
    }


@pytest.fixture
def cluster(monkeypatch):
    """A function that takes the cluster's jobs and returns its address."""
    monkeypatch.setattr(job_client, "WAIT_S", 0.01)
    monkeypatch.setattr(Cluster, "questions", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def make(*jobs):
        monkeypatch.setattr(Cluster, "jobs", {one["submission_id"]: one for one in jobs})
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        ("SUCCEEDED", 0, DONE),
        ("FAILED", 1, FAILED),
        ("FAILED", USELESS, USELESS),
        ("FAILED", -9, FAILED),
        ("STOPPED", None, STOPPED),
    ],
)
def test_wait_ends_with_the_exit_code_of_the_job(cluster, rasterloom, status, code, ends):
    address = cluster(job("raysubmit_a", status, 1000, code))
    got, printed, _ = rasterloom("jobs", "wait", "_a", "--address", address)
    assert got == ends and Cluster.questions > 3
    why = ": why: it said so" if status == "FAILED" else ""
    assert printed.strip() == f"raysubmit_a: {status}{why}"


@pytest.mark.parametrize(
    ("jobs", "found"),
    [
        ([job("old", "RUNNING", 1000), job("new", "SUCCEEDED", 2000)], "old"),
        ([job("old", "PENDING", 1000), job("new", "RUNNING", 2000)], "new"),
        ([job("old", "FAILED", 1000), job("new", "SUCCEEDED", 2000)], "new"),
        ([job("ours", "SUCCEEDED", 1000), job("theirs", "RUNNING", 2000, ours=False)], "ours"),
    ],
)
def test_without_an_id_it_is_the_latest_that_goes_on(cluster, jobs, found):
    assert job_client.Jobs.open(cluster(*jobs)).find("") == found


@pytest.mark.parametrize("command", ["wait", "follow"])
def test_without_a_job_of_ours_it_is_one_line(cluster, rasterloom, command):
    address = cluster(job("theirs", "RUNNING", 1000, ours=False))
    code, _, said = rasterloom("jobs", command, "--address", address)
    assert code == FAILED and "no job of Rasterloom" in " ".join(said.split())


def shown(**options):
    file = io.StringIO()
    with JobView(Console(file=file, width=60, **options)) as view:
        for text in LOG:
            view.write(text)
    return file.getvalue()


def test_a_log_that_is_followed_is_printed_as_it_is():
    assert shown() == "".join(LOG)


def test_on_a_terminal_how_far_it_is_stays_in_one_line():
    text = shown(force_terminal=True, color_system=None, legacy_windows=False)
    for line in ("pairs  new\n", "workers were lost\n", "rest"):
        assert line in text
    assert "\n  pairs:" not in text and "pairs: 2 of 3 shards" in text
