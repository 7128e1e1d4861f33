"""A test run that SIGTERM ends leaves no process behind."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent
CONFTEST = """
import sys
sys.path[:0] = [{support!r}]
import importlib.util
spec = importlib.util.spec_from_file_location("outer", {conftest!r})
outer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outer)
globals().update({{name: value for name, value in vars(outer).items() if not name.startswith("__")}})
"""
BODY = {
    "an S3 server": """
import time
def test_it(seaweedfs):
    print("READY", file=open({ready!r}, "w"))
    time.sleep(600)
""",
    "Ray, whose handler makes the signal an exit": """
import time
from rasterloom.utils.local_ray import start_local_ray
def test_it():
    start_local_ray(num_cpus=1)
    print("READY", file=open({ready!r}, "w"))
    time.sleep(600)
def test_another():
    time.sleep(600)
""",
    "a program that does not heed the signal": """
import subprocess, sys, time
def test_it():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    subprocess.run([sys.executable, "-c", code + "open({ready!r}, 'w'); time.sleep(600)"])
""",
}


@pytest.mark.parametrize("body", BODY.values(), ids=BODY)
def test_sigterm_leaves_no_process_behind(tmp_path, body):
    ready = tmp_path / "ready"
    conftest = CONFTEST.format(support=str(TESTS / "support"), conftest=str(TESTS / "conftest.py"))
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(body.format(ready=str(ready)))
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "-q", "test_it.py", f"--basetemp={tmp_path / 'base'}"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    said, below = tmp_path / "log", []
    try:
        while not ready.exists():
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        assert below
        process.send_signal(signal.SIGTERM)
        process.wait()
        assert process.returncode, said.read_text()
        _, alive = psutil.wait_procs(below, timeout=20)
        assert not alive, said.read_text()
    finally:
        for left in (process, *below):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
