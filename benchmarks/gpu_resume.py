"""Stage `resume` of benchmarks/gpu.py: a stage that is stopped and goes on, beside ones that were not."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gpu_models import one_rank, profile_of
from gpu_record import Bench

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.schema import TOKENS, pair_key
from rasterloom.train.job import Request, StageJob, WorkerTakes
from rasterloom.train.model.shapes import SIZES, Shape

STEPS, STOP_AT = 12, 6
SMALL = Shape(hidden=1024, intermediate=2816, layers=4, heads=16, kv_heads=16)
REHEARSED = Shape(hidden=64, intermediate=96, layers=1, heads=2, kv_heads=2)


def resume(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_tokens(bench, folder)
        for deterministic in (False, True):
            prefix = "deterministic-" if deterministic else ""
            losses = {
                run: _run(bench, folder, f"{prefix}{run}", deterministic, stops=run == "C") for run in "ABC"
            }
            spread = _apart(losses["A"], losses["B"])
            stopped = _apart(losses["A"], losses["C"])
            args = {"deterministic": deterministic}
            goal = ("==", 0.0) if deterministic else None
            bench.note("loss of two runs, at most apart", spread, goal=goal, args=args)
            bench.note(
                "loss after a stop, at most apart", stopped, goal=goal or ("<=", 2 * spread), args=args
            )
            same = int(len({_digest(folder / f"{prefix}{run}") for run in "ABC"}) == 1)
            bits = ("==", 1.0) if deterministic else None
            bench.note("same weights, bit for bit", same, goal=bits, args=args)
            if bench.rehearses:
                break


def _apart(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()


def _write_tokens(bench: Bench, folder: Path) -> None:
    rng, profile = np.random.default_rng(0), profile_of(bench)
    for file in range(2):
        rows = []
        for row in range(16 if bench.rehearses else 128):
            length = int(rng.integers(20, 60)) if bench.rehearses else int(rng.integers(700, 1400))
            ids = rng.integers(0, profile.vocab_size, length).tolist()
            about = {"target": 512, "bucket": "512x512", "width": 512, "height": 512, "task": "t2i"}
            about |= {"key": pair_key(f"row {file} {row}", None), "n_tokens": length, "caption": ""}
            rows.append(about | {"input_ids": ids, "loss_spans": [10, length]})
        pq.write_table(
            pa.Table.from_pylist(rows, TOKENS), folder / f"tokens-{file}.parquet", row_group_size=16
        )


def _run(bench: Bench, folder: Path, name: str, deterministic: bool, *, stops: bool) -> list[float]:
    """Run a stage, on a GPU in a process of its own. Returns its losses.

    One that ``stops`` is run twice.
    """
    began = time.monotonic()
    for stop_at in (STOP_AT, 0) if stops else (0,):
        given = {"folder": str(folder), "name": name, "deterministic": deterministic, "stop_at": stop_at}
        if bench.rehearses:
            worker({**given, "rehearses": True})
            continue
        command = [sys.executable, __file__, json.dumps({**given, "rehearses": False})]
        subprocess.run(command, check=True)
    bench.note("seconds of a run", time.monotonic() - began, "s", args={"run": name})
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def worker(given: dict[str, object]) -> None:
    """Train the stage as one rank."""
    from rasterloom.train.trainer import run_worker

    bench = Bench("resume", Path("/dev/null"), rehearses=bool(given["rehearses"]))
    if given["deterministic"]:
        torch.use_deterministic_algorithms(True, warn_only=True)
    SIZES["small"] = REHEARSED if bench.rehearses else SMALL
    one_rank(bench)
    folder = Path(str(given["folder"]))
    stage = Stage(target=512, steps=STEPS, lr=1e-4, batch_tokens=300 if bench.rehearses else 16_384)
    train = Train(
        stages=(stage,), init="small", deepspeed=DeepSpeed(zero=2, bf16=True), heldout=0.0, dropout=0.05,
        checkpoint_every=4, trackers=(), log_every=STEPS,
    )  # fmt: skip
    job = StageJob(
        stage=stage,
        train=train,
        profile=profile_of(bench),
        token_files=tuple(str(folder / f"tokens-{file}.parquet") for file in range(2)),
        filesystem=None,
        tokens_snapshot="1",
        init="small",
        out_dir=str(folder / str(given["name"])),
        workers=1,
        takes=WorkerTakes(gpus=0.0 if bench.rehearses else 1.0),
    )
    steps = 0

    def request() -> Request:
        nonlocal steps
        steps += 1
        return Request.STOP if steps == given["stop_at"] else Request.NOTHING

    run_worker(job, request=request)


if __name__ == "__main__":
    worker(json.loads(sys.argv[1]))
