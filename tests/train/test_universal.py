"""Conversion to DeepSpeed's universal form, in this process and in processes of its own."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rasterloom.errors import StorageError
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train import universal
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.optim.deepspeed_engine import start_deepspeed
from rasterloom.train.universal import to_universal

SHARD = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def checkpoint(profile, tmp_path):
    """DeepSpeed's files of a tiny model."""
    train = Train(stages=(Stage(target=64, steps=4),), deepspeed=DeepSpeed(zero=2, bf16=True))
    engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)
    engine.save_checkpoint(str(tmp_path), tag="state", save_latest=False)
    engine.destroy()
    return tmp_path / "state"


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_converter_takes_the_arguments_that_it_is_given(monkeypatch, tmp_path):
    """All that its own command line knows, so that a new one is noticed."""
    from deepspeed.checkpoint import ds_to_universal

    given = {}
    monkeypatch.setattr(ds_to_universal, "main", lambda arguments: given.update(vars(arguments)))
    to_universal(tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["ds_to_universal", "--input_folder", "in", "--output_folder", "out"])
    known = vars(ds_to_universal.parse_arguments())
    assert given.keys() == known.keys(), "DeepSpeed moved the arguments of ds_to_universal: mend universal.py"


def test_what_was_left_half_converted_goes(checkpoint, tmp_path):
    to_universal(checkpoint, tmp_path / "fresh")
    (tmp_path / "again/tmp/lm.lm_head.weight/0").mkdir(parents=True)
    (tmp_path / "again/tmp/lm.lm_head.weight/0/fp32.07").write_bytes(b"of another rank")
    to_universal(checkpoint, tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "fresh")
    assert len(files(tmp_path / "again")) > 10


def test_a_large_one_is_converted_in_processes_to_the_same_files(checkpoint, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    to_universal(checkpoint, tmp_path / "one")
    monkeypatch.setattr(universal, "LARGE", 1)
    monkeypatch.setattr(universal, "PROGRESS_S", 0.2)
    to_universal(checkpoint, tmp_path / "many")
    assert files(tmp_path / "one") == files(tmp_path / "many")
    said = [record.getMessage() for record in caplog.records]
    assert any(" % of the checkpoint are converted, in " in line for line in said)
    assert said[-1].startswith("converted in ")
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    (checkpoint / "broken_optim_states.pt").write_bytes(b"no checkpoint")
    with pytest.raises(StorageError, match="state: the checkpoint cannot be converted: "):
        to_universal(checkpoint, tmp_path / "many")


def test_processes_are_as_many_as_memory_holds(checkpoint, monkeypatch):
    """A share is 12 bytes a parameter here, of one rank; a parameter put together is at most the largest."""
    share = (checkpoint / SHARD.format(0)).stat().st_size
    largest = 12 * max(universal._parameters(checkpoint))
    assert largest < share / 2
    monkeypatch.setattr(universal.os, "cpu_count", lambda: 64)
    for free, expected in (
        (0.0, (1, 1)),
        (3.01 * share / 0.7, (3, min(universal.CONVERTERS, int(3.01 * share // largest)))),
        (float("inf"), (universal.CONVERTERS, universal.CONVERTERS)),
    ):
        monkeypatch.setattr(universal, "free_memory", lambda free=free: free)
        assert universal._processes(checkpoint) == expected
    monkeypatch.setattr(universal.os, "cpu_count", lambda: 2)
    assert universal._processes(checkpoint) == (2, 2)


def test_the_program_ends_with_its_processes_when_its_rank_is_killed(checkpoint, tmp_path):
    """Two of its processes are in the middle: each waits for the share of a rank, from a pipe."""
    for rank in (1, 2):
        os.mkfifo(checkpoint / SHARD.format(rank))
    command = [sys.executable, "-m", "rasterloom.train.universal", str(checkpoint), str(tmp_path / "out")]
    program = subprocess.Popen([*command, "2", "2"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        one = psutil.Process(program.pid)
        while len(processes := one.children(recursive=True)) < 2:
            assert program.poll() is None
            time.sleep(0.05)
        program.stdin.close()  # as the system does with a process that is killed
        _, alive = psutil.wait_procs([one, *processes], timeout=60)
        assert not alive
        assert one.returncode == -signal.SIGKILL
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
