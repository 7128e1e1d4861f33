"""Conversion of DeepSpeed's checkpoints to its universal form.

Every parameter is whole in it. A large checkpoint is converted by the processes of a program, this module's
`main`: ranks have joined a process group and must not fork. It ends with the rank that has started it.
"""

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import torch

from rasterloom.errors import StorageError
from rasterloom.train.deepspeed_compat import silence
from rasterloom.utils.free_memory import free_memory

LARGE = 2**30  # bytes of a checkpoint from which on it is converted in several processes
CONVERTERS = 8  # at most
PROGRESS_S = 10.0  # between lines of the log
_SHARE_OF_FREE = 0.7  # of the memory that is free, for all of them
_OF_A_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SHARDS, _MODELS = "*_optim_states.pt", "*mp_rank_00_model_states.pt"
logger = logging.getLogger(__name__)


def to_universal(source: Path, target: Path) -> None:
    """Convert a checkpoint, in place of what an attempt before has left.

    Raises:
        StorageError: the processes that convert a large one have failed.
    """
    shutil.rmtree(target, ignore_errors=True)
    if _size(source) < LARGE:
        with silence():
            _convert(source, target, 1, 1)  # in this process, which must not fork
        return
    began, last = time.monotonic(), ""
    with tempfile.TemporaryFile("w+") as errors:
        with _started(source, target, _processes(source), errors.fileno()) as program:
            try:
                _watch(program, source, target)
            finally:
                with suppress(ProcessLookupError):  # all have ended, as they should
                    os.killpg(program.pid, signal.SIGKILL)
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
    if program.returncode:
        raise StorageError(f"{source}: the checkpoint cannot be converted: {last}")
    logger.info("converted in %.0f s", time.monotonic() - began)


def _processes(source: Path) -> tuple[int, int]:
    """Numbers of processes: to read shares, and to put parameters together.

    The former hold a rank's share in memory, the latter three times a parameter in float32.
    """
    most, memory = min(CONVERTERS, os.cpu_count() or 1), _SHARE_OF_FREE * free_memory()
    share = max(file.stat().st_size for file in source.glob(_SHARDS))
    parameter = max((12 * numel for numel in _parameters(source)), default=share)
    readers, mergers = (max(1, int(min(most, memory / each))) for each in (share, parameter))
    return readers, mergers


def _parameters(source: Path) -> list[int]:
    """Elements of each parameter."""
    for file in sorted(source.glob(_MODELS)):
        states = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
        return [math.prod(shape) for group in states["param_shapes"] for shape in group.values()]
    return []


def _started(
    source: Path, target: Path, processes: tuple[int, int], errors: int
) -> "subprocess.Popen[bytes]":
    """Start the program."""
    size = _size(source) / 2**30
    logger.info("%.1f GiB of checkpoint are converted by %d and %d processes", size, *processes)
    alone = {name: value for name, value in os.environ.items() if name not in _OF_A_GROUP}
    alone["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(source), str(target), *map(str, processes)],
        env=alone,
        stdin=subprocess.PIPE,  # whose end tells it of ours
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )


def _watch(program: "subprocess.Popen[bytes]", source: Path, target: Path) -> None:
    """Wait for the end, and log the progress."""
    whole = 2 * sum(file.stat().st_size for file in source.glob(_SHARDS))  # parts, and put together
    began = time.monotonic()
    while True:
        try:
            program.wait(PROGRESS_S)
            return
        except subprocess.TimeoutExpired:
            share, took = min(0.99, _size(target) / whole), time.monotonic() - began
            logger.info("%.0f %% of the checkpoint are converted, in %.0f s", 100 * share, took)


def _size(folder: Path) -> int:
    """Bytes of a folder's files. Some may go meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(place, file)).st_size
            except FileNotFoundError:
                continue
    return total


def _convert(source: Path, target: Path, extractors: int, mergers: int) -> None:
    from deepspeed.checkpoint import ds_to_universal  # heavy

    arguments = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=extractors,
        num_merge_workers=mergers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    ds_to_universal.main(arguments)


def _end_with_parent() -> None:
    """End all processes with the standard input. It ends when who gave it does."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Convert what the command line names."""
    source, target, extractors, mergers = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _convert(Path(source), Path(target), int(extractors), int(mergers))


if __name__ == "__main__":
    main()
