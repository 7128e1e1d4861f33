"""Figures of a GPU, beside their goals and predictions.

python benchmarks/gpu.py --out FOLDER [--budget 480] [--only train,codec] [--resume FOLDER/gpu.json]
python benchmarks/gpu.py --out FOLDER --rehearse        # every stage on a CPU, with tiny models, in a minute

Each stage runs in a process of its own, for so many seconds at most; rehearsed, all in one. Its figures are
appended to gpu.jsonl one by one; gpu.json has all of them after each stage. scripts/gpu_table.py makes
benchmarks/GPU.md of it. Weights are random, and images drawn: neither changes how fast a network is.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

# Name, seconds at most, and where the stage is.
STAGES = (
    ("ceilings", 20, "gpu_kernels:ceilings"),
    ("attention", 30, "gpu_kernels:attend"),
    ("equality", 45, "gpu_equality:equality"),
    ("train", 180, "gpu_train:train"),
    ("codec", 60, "gpu_images:codec"),
    ("sample", 60, "gpu_images:sample"),
    ("clip", 30, "gpu_images:clip"),
    ("resume", 50, "gpu_resume:resume"),
)
PACKAGES = ("torch", "triton", "transformers", "deepspeed", "diffusers", "numpy")
TOLD = 3000  # characters of what a stage that failed has said
GRACE_S = 3.0


def main() -> None:
    args = parse()
    if args.stage:
        for name in args.stage.split(","):
            run_stage(name, args.out, rehearses=args.rehearse)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    lines = args.out / "gpu.jsonl"
    lines.write_text("")
    done = _done(args.resume) if args.resume else {}
    outcomes: dict[str, Any] = {}
    began = time.monotonic()
    stages = [(name, box) for name, box, _ in STAGES if not args.only or name in args.only.split(",")]
    if args.rehearse:  # in one process: most of the time would go into importing torch in each
        names = [name for name, _ in stages]
        outcomes = dict.fromkeys(names, attempt(",".join(names), 0, args))
        write(args.out / "gpu.json", lines, outcomes, rehearses=True)
        stages = []
    for name, box in stages:
        if name in done:
            outcomes[name] = done[name]["outcome"]
            with lines.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in done[name]["records"])
        elif time.monotonic() - began + box > args.budget:
            outcomes[name] = {"skipped": "budget"}
        else:
            outcomes[name] = attempt(name, box, args)
        write(args.out / "gpu.json", lines, outcomes, rehearses=False)
    print(table(json.loads((args.out / "gpu.json").read_text())))
    if args.rehearse and any("failed" in outcome for outcome in outcomes.values()):
        sys.exit("a stage failed: its last words are in gpu.json")


def attempt(name: str, box: float, args: argparse.Namespace) -> dict[str, Any]:
    """Run a stage in a process of its own, within its time."""
    command = [sys.executable, __file__, "--stage", name, "--out", str(args.out)]
    command += ["--rehearse"] if args.rehearse else []
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_variables()},
        start_new_session=True,  # so that what a stage has started ends with it
    )
    try:
        _, said = process.communicate(timeout=None if args.rehearse else box)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            _, said = process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, said = process.communicate()
    outcome: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    return outcome | ({"failed": process.returncode, "said": said[-TOLD:]} if process.returncode else {})


def _variables() -> dict[str, str]:
    return {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def run_stage(name: str, out: Path, *, rehearses: bool) -> None:
    """Run a stage in this process."""
    from gpu_record import Bench  # after the driver, which needs no torch

    module, function = next(where for stage, _, where in STAGES if stage == name).split(":")
    getattr(import_module(module), function)(Bench(name, out / "gpu.jsonl", rehearses=rehearses))


def write(file: Path, lines: Path, outcomes: dict[str, Any], *, rehearses: bool) -> None:
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    whole = {"header": header(rehearses), "outcomes": outcomes, "records": records}
    file.write_text(json.dumps(whole, indent=1) + "\n")


def header(rehearses: bool) -> dict[str, Any]:
    """Versions, machine and commit of a run."""
    here = Path(__file__).parent
    found: dict[str, Any] = {"rehearsal": rehearses, "python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["gpu"] = _said("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader")
    found["commit"] = _said("git", "-C", str(here), "rev-parse", "--short", "HEAD")
    return found


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _done(file: Path) -> dict[str, Any]:
    """Outcome and records of the stages that an earlier run has finished."""
    earlier = json.loads(file.read_text())
    return {
        name: {"outcome": outcome, "records": [r for r in earlier["records"] if r["stage"] == name]}
        for name, outcome in earlier["outcomes"].items()
        if not {"failed", "skipped"} & outcome.keys()
    }


def table(found: dict[str, Any]) -> str:
    """Figures that have a goal, and stages that have none to show."""
    lines = []
    for record in found["records"]:
        if record["goal"] is not None:
            mark = {True: "ok", False: "MISSED", None: "-"}[record["ok"]]
            value = record["value"]
            shown = f"{value:.4g}" if isinstance(value, int | float) else str(value)
            goal = f"{record['op']} {record['goal']:g}"
            lines.append(f"{mark:<7} {record['stage']:<10} {record['name']:<44} {shown:>10} {goal}")
    for name, outcome in found["outcomes"].items():
        if why := outcome.get("skipped") or ("failed" in outcome and f"failed, {outcome['failed']}"):
            lines.append(f"{'none':<7} {name:<10} {why}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.jsonl and gpu.json")
    parser.add_argument(
        "--budget", type=float, default=480, help="seconds; a stage that would end later is left out"
    )
    parser.add_argument("--only", help="these stages, separated by commas")
    parser.add_argument("--resume", type=Path, help="gpu.json of an earlier run, whose stages are kept")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
