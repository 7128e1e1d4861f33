"""Each thing that the doctor looks at, well and not."""

import http.server
import threading
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.pipelines.cluster import cluster_checks, doctor
from rasterloom.pipelines.execution.nodes import slots
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.resources import DriverTakes
from rasterloom.storage.store import Store
from rasterloom.train.devices import Gpu
from rasterloom.versions.corpus import Corpus

BUCKET = Corpus("demo", Store("s3://bucket/prefix"), (("type", "rest"), ("uri", "http://catalog.invalid/x")))


@pytest.fixture
def server():
    """An S3 server as far as the doctor asks without a key: it refuses, and tells the time it is told."""

    class Answers(http.server.BaseHTTPRequestHandler):
        date = formatdate(usegmt=True)

        def do_HEAD(self):
            self.send_response_only(403)
            if self.date:
                self.send_header("Date", self.date)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.answers = Answers
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("seconds", "ok", "words"), [(0, True, "the clock is"), (400, False, "set it by NTP")]
)
def test_the_clock(server, monkeypatch, seconds, ok, words):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    for sign, word in ((1, "behind"), (-1, "before")):
        server.answers.date = formatdate(time.time() + sign * seconds, usegmt=True)
        (found,) = cluster_checks.clock(BUCKET)
        assert found.ok is ok and words in found.what
        assert ok or word in found.what
    server.answers.date = None
    (found,) = cluster_checks.clock(BUCKET)
    assert found.ok and "does not tell the time" in found.what


def test_the_driver_of_a_job_takes_its_own(tmp_path):
    small, big = {"CPU": 2.0, "steady": 1.0}, {"CPU": 8.0}
    assert cluster_checks.without_driver([big, small], DriverTakes()) == [big, {**small, "CPU": 1.0}]
    assert cluster_checks.without_driver([big, small], DriverTakes(cpus=0)) == [big, small]
    assert cluster_checks.without_driver([big, small], DriverTakes(cpus=4)) == [{"CPU": 4.0}, small]
    assert cluster_checks.without_driver([big, small], DriverTakes(cpus=16)) == [big, small]


def test_room_for_a_recipe_s_workers(tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
    (tmp_path / "recipe.yaml").write_text(
        "corpus: demo\nsources: [{path: pairs.csv}]\ntrain: {stages: [{target: 512, steps: 1}]}\n"
        "run: {train_workers: 3, steps: {images: {resources: {fetch: 1}}, train: {cpus: 4, memory: 8GB}}}\n"
    )
    node = {"CPU": 8.0, "memory": 12e9, "fetch": 16.0}
    found = list(cluster_checks.room(load_recipe(tmp_path / "recipe.yaml"), [node, {**node, "fetch": 0.0}]))
    assert [finding.ok for finding in found] == [True, True, False]
    words = [finding.what for finding in found]
    assert words[0].startswith("room for 16 workers of CPU 1 each (pairs, scores, selection, codes/512")
    assert words[1] == "room for 8 workers of CPU 1, fetch 1 each (images)"
    assert words[2].startswith("room for 2 workers of CPU 4, memory 8.0 GB each (train/1-512), of 3: add")


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 4))
def test_room_depends_on_the_placement(cpus, each):
    nodes, needs = [{"CPU": float(n)} for n in cpus], {"CPU": float(each)}
    fit = [n // each for n in cpus]
    assert slots(nodes, needs) == slots(nodes, needs, "SPREAD") == sum(fit)
    assert slots(nodes, needs, "STRICT_PACK") == max(fit, default=0)
    assert slots(nodes, needs, "STRICT_SPREAD") == sum(n > 0 for n in fit)


def test_a_server_that_does_not_answer(monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    (found,) = cluster_checks.clock(BUCKET)
    assert not found.ok and "AWS_ENDPOINT_URL" in found.what


def test_names(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    known = {found.what.split()[2]: found for found in cluster_checks.names(BUCKET)}
    assert known["localhost"].ok
    assert not known["catalog.invalid"].ok and "resolv.conf" in known["catalog.invalid"].what
    assert list(cluster_checks.names(Corpus("demo", Store("/somewhere")))) == []


def test_gpus():
    a100, t4 = Gpu("A100", 80 * 2**30, True), Gpu("T4", 16 * 2**30, False)
    assert [f.ok for f in doctor.gpu_findings([a100] * 8, True, True)] == [True, True]
    told = list(doctor.gpu_findings([a100, t4], True, False))
    assert [f.ok for f in told] == [True, False, True]
    assert "T4: no bf16" in told[1].what and "gpu.Dockerfile" in told[2].what
    (none,) = doctor.gpu_findings([], True, False)
    assert none.ok and "needs those of a cluster" in none.what


def test_no_cluster_and_no_workspace_are_a_line_each(rasterloom, tmp_path, free_port):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "file").write_text("no folder")
    recipe.write_text("corpus: demo\nworkspace: file/work\nsources: [{path: pairs.csv}]\n")
    address = f"http://127.0.0.1:{free_port()}"
    code, out, _ = rasterloom("doctor", recipe, "--address", address)
    bad = [line for line in out.splitlines() if line.startswith("bad")]
    assert code == 1 and f"{len(bad)} of" in out.splitlines()[-1]
    assert any("cannot be written" in line for line in bad)
    assert any(f"nobody answers at {address}" in line for line in bad)


def test_a_full_disk_names_the_way_out(monkeypatch):
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    (disk,) = [f for f in doctor.examine(None) if "spill" in f.what]
    assert not disk.ok and "TMPDIR" in disk.what


def test_a_good_recipe_is_all_green(tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
    (tmp_path / "recipe.yaml").write_text("corpus: demo\nsources: [{path: pairs.csv}]\n")
    found = doctor.examine(load_recipe(tmp_path / "recipe.yaml"))
    assert all(f.ok for f in found) and not any("\n" in f.what for f in found)
