"""Stages trained by several ranks of torch.distributed, each a process, without Ray.

A server process imports torch, transformers and DeepSpeed once; ranks are forked from it.
"""

import itertools
import json
import multiprocessing
import os
import socket
import tempfile
import traceback
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
# All that a rank imports: an engine DeepSpeed's Muon, and that the whole back end of torch.compile (2 s of a
# core a rank), its communication setuptools, a table pandas, adapters peft (0.8 s).
FORKS.set_forkserver_preload(
    [
        "deepspeed",
        "deepspeed.checkpoint.ds_to_universal",
        "deepspeed.runtime.zero.muon.original_muon",
        "pandas",
        "peft",
        "pyarrow.compute",
        "torch.utils.cpp_extension",
        "transformers.models.chameleon.modeling_chameleon",
        "rasterloom.train.trainer",
        "ranks",
    ]
)
LIMIT_S = 1800  # of a rank that hangs: on a busy machine a stage of seconds takes minutes


def train(job, world, **options):
    """Train a job with so many ranks. Returns what rank 0's `run_worker` does.

    Options: ``stop_at`` (a rank is asked to stop after that step), ``die_at`` (the last rank dies as it is
    about to take that step), ``poison`` (steps whose ``spoilt``, "loss" or "gradients", are infinite on the
    last rank), ``seen`` (a folder: of each rank a file, to which it appends a line a step: the world size and
    the documents of each of its micro-batches), ``apart`` (each rank believes that it is on a machine of its
    own), ``converts`` (a file, to which a rank that converts a checkpoint appends its number), ``behind``
    (checkpoints are written behind the training, as on GPUs), ``die_writing`` (the last rank dies in the
    middle of writing its share of the checkpoint of that number in this run, behind the training). Steps and
    checkpoints count from 1, in this run.

    Raises:
        RuntimeError: a rank raised; the text is the first one's traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            FORKS.Process(target=_rank, args=(job, rank, world, folder, dict(os.environ), options))
            for rank in range(world)
        ]
        for rank in ranks:
            rank.start()
        try:
            for rank in ranks:
                rank.join(LIMIT_S)
        finally:
            for rank in ranks:
                rank.kill()
        errors = sorted(Path(folder).glob("error-*"))
        if errors:
            raise RuntimeError(errors[0].read_text())
        if any(rank.exitcode for rank in ranks):
            raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}")
        return (Path(folder) / "outcome").read_text()


def _rank(job, rank, world, folder, environment, options):
    os.environ.update(environment)
    os.environ["LOCAL_RANK"] = str(rank)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        outcome = _run(job, rank, world, **options)
    except BaseException as error:
        # Later ones are of ranks that lost this one.
        name = f"error-{len(list(Path(folder).glob('error-*')))}-{rank}"
        (Path(folder) / name).write_text(f"{traceback.format_exc()}\n{type(error).__name__}: {error}")
        os._exit(1)
    if rank == 0:
        (Path(folder) / "outcome").write_text(outcome)
    os._exit(0)


def _run(job, rank, world, stop_at=None, die_at=None, poison=(), spoilt="loss", seen=None, **storing):
    from rasterloom.train import trainer as engine
    from rasterloom.train.job import Request

    _store(rank, world, **storing)
    steps = 0
    original = engine.train_step

    def train_step(model_engine, parts, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == die_at and rank == world - 1:
            os._exit(9)
        if seen is not None:
            documents = [_documents(part) for part in parts]
            with (Path(seen) / f"rank-{rank}.jsonl").open("a") as file:
                file.write(json.dumps({"world": world, "parts": documents}) + "\n")
        if steps in poison and rank == world - 1:
            return original(_Poisoned(model_engine, spoilt), parts, *args, **kwargs)
        return original(model_engine, parts, *args, **kwargs)

    engine.train_step = train_step

    def request():
        return Request.STOP if steps == stop_at and rank == min(1, world - 1) else Request.NOTHING

    return engine.run_worker(job, request=request)


def _store(rank, world, apart=False, converts=None, behind=False, die_writing=None):
    """Change how this rank stores checkpoints and takes them up."""
    from rasterloom.train import trainer as engine
    from rasterloom.train.checkpoint import resume, saver, snapshot

    if apart:
        socket.gethostname = lambda: f"machine-{rank}"
    if converts is not None:
        original = resume.to_universal

        def to_universal(*args):
            with Path(converts).open("a") as file:
                file.write(f"{rank}\n")
            original(*args)

        resume.to_universal = to_universal
    if behind or die_writing:
        engine.Saver = lambda *args, **options: saver.Saver(*args, **options | {"behind": True})
    if die_writing and rank == world - 1:
        written = itertools.count(1)

        class DyingSnapshot(snapshot.Snapshot):
            def write(self):
                if next(written) < die_writing:
                    return super().write()
                _, file = self._files[0]
                file.write_bytes(b"half of it")
                os._exit(9)

        saver.Snapshot = DyingSnapshot


def _documents(part):
    ends = [sum(part.lengths[: n + 1]) for n in range(len(part.order))]
    return [part.input_ids[end - n : end].tolist() for end, n in zip(ends, part.lengths, strict=False)]


class _Poisoned:
    """An engine whose losses or gradients are infinite."""

    def __init__(self, engine, spoilt):
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "_spoilt", spoilt)

    def __call__(self, *args):
        total, nll, z = self._engine(*args)
        if self._spoilt == "loss":
            return total * float("inf"), nll * float("inf"), z
        total.register_hook(lambda gradient: gradient * float("inf"))
        return total, nll, z

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __setattr__(self, name, value):
        setattr(self._engine, name, value)
