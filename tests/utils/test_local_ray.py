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
