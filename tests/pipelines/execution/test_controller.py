"""A run whose Ray loses its controller ends with a sentence of ours."""

import resource
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from rasterloom.errors import FAILED, StepFailed, StepImpossible
from rasterloom.pipelines.execution import controller as module
from rasterloom.pipelines.execution.controller import LOST, Controller, answers
from rasterloom.utils.sigterm import sigterm

PROGRAM = """
import logging
import signal
import sys
import time

import psutil

from rasterloom.cli import app, entry
from rasterloom.pipelines.execution import controller as module
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.recipe.run import Run

def run(standalone_mode):
    with module.controller.heeded():
        start_ray(Run(cpus=1))
        (victim,) = (one for one in psutil.Process().children(recursive=True) if one.name() == "gcs_server")
        victim.kill()
        {heeds}
        time.sleep(300)

module.LEAVE_S = 2
logging.getLogger("rasterloom").addHandler(logging.NullHandler())  # as the log file, which takes the stack
app.app = run
sys.argv = ["rasterloom"]
entry.main()
"""


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server):
    return "{}:{}".format(*server.getsockname())


def test_who_listens_answers(listener):
    assert answers(address_of(listener))
    listener.close()
    assert not answers("127.0.0.1:1") and not answers("") and not answers("no.such.host.invalid:1")


def test_a_process_without_a_free_file_does_not_take_it_for_lost():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        seen = answers("127.0.0.1:1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert seen and not answers("127.0.0.1:1")


@pytest.fixture
def watched(listener, monkeypatch):
    """A watch over a listener, by a Ray that knows no more than its address."""
    address = address_of(listener)
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        get_runtime_context=lambda: SimpleNamespace(gcs_address=address),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(module, "HERE_S", 0.2)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(sigterm, "came", False)
    before = signal.getsignal(signal.SIGTERM)
    sigterm.heed()
    made = Controller()
    yield made
    made._address = ""  # ends its thread
    signal.signal(signal.SIGTERM, before)


def test_a_block_ends_where_the_controller_is_lost(watched, listener):
    watched.watch(is_local=True)
    with pytest.raises(StepFailed) as raised, watched.heeded():
        listener.close()
        time.sleep(60)
    assert str(raised.value) == LOST and raised.value.exit_code == FAILED


def test_an_error_of_a_block_without_a_controller_is_explained(watched, listener, monkeypatch, caplog):
    monkeypatch.setattr(module, "HERE_S", 60)
    watched.watch(is_local=True)
    for error in (StepImpossible("itself"), KeyboardInterrupt()):
        with pytest.raises(type(error)), watched.heeded():
            raise error
    listener.close()
    with pytest.raises(StepFailed, match=r"^Ray.s controller"), watched.heeded():
        raise StepImpossible("its worker died")
    (logged,) = (one for one in caplog.records if one.exc_info)
    assert "StepImpossible: its worker died" in caplog.text and "without Ray's controller" in logged.message
    with pytest.raises(KeyboardInterrupt), watched.heeded():  # asked for in the very moment
        raise KeyboardInterrupt


def test_nothing_is_ended_between_two_blocks(watched, listener):
    watched.watch(is_local=True)
    listener.close()
    time.sleep(0.5)
    assert not watched.is_lost and not sigterm.came


@pytest.mark.parametrize("heeds", ["", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})"])
def test_a_process_ends_with_our_sentence_whatever_it_waits_for(heeds):
    program = PROGRAM.replace("{heeds}", heeds)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    said = " ".join(done.stderr.split())
    assert done.returncode == FAILED and said.endswith(LOST) and "Traceback" not in said, done.stderr
