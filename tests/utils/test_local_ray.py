import os
import subprocess
import sys
import time

import pytest

from rasterloom.errors import StorageError
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.recipe.run import Run
from rasterloom.utils import local_ray
from rasterloom.utils.private_folders import MAX_AGE_S


@pytest.fixture
def ended():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_old_sessions_of_ended_processes_go(tmp_path, ended):
    old = time.time() - MAX_AGE_S - 1
    stamp = "session_2026-01-01_00-00-00_000000"
    for name, when in (
        (f"{stamp}_{ended}", old),
        (f"{stamp}_{os.getpid()}", old),
        (f"session_2026-01-02_00-00-00_000000_{ended}", time.time()),
        ("session_latest", old),
    ):
        (tmp_path / name / "logs").mkdir(parents=True)
        os.utime(tmp_path / name, (when, when))
    local_ray._remove_old_sessions(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{stamp}_{os.getpid()}", f"session_2026-01-02_00-00-00_000000_{ended}", "session_latest"}


def test_a_private_folder_that_is_not_private_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"rasterloom-{os.geteuid()}").mkdir()
    (tmp_path / f"rasterloom-{os.geteuid()}").chmod(0o777)
    monkeypatch.setattr("rasterloom.utils.private_folders.SOCKET_FOLDER_BYTES", 1000)  # as it is long
    with pytest.raises(StorageError) as refused:
        start_ray(Run())
    assert "can be written by others" in str(refused.value) and "TMPDIR" in str(refused.value)
    assert "less to do" not in str(refused.value)


def test_a_ray_that_does_not_know_the_variables_of_storage_is_started_anew(monkeypatch):
    """A notebook ran locally, then sets the endpoint of its bucket."""
    import ray  # heavy

    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    start_ray(Run())
    session = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().gcs_address
    start_ray(Run())
    assert session == (ray.get_runtime_context().get_job_id(), ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    start_ray(Run())
    seen = ray.remote(lambda: os.environ.get("AWS_ENDPOINT_URL")).remote()
    assert ray.get(seen) == "http://127.0.0.1:1"
