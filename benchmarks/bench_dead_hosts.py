"""Time of a fetch with hosts that never answer: prints a table.

python benchmarks/bench_dead_hosts.py [--rows 20000] [--shares 0 0.1 0.3] [--workers 2] [--deadline 10]

Each line is `rasterloom run --until images` on a list of its own, in a new workspace, on a local Ray. The
rows that have a dead host are spread evenly, four to a host. The seconds are those of the step, without the
start of Ray and with the wait for the last rows, which is that of a deadline.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_fetch import photographs

HERE = Path(__file__).resolve().parent
LIVE = 32  # hosts
ROWS_A_DEAD_HOST = 4


def recipe_of(folder: Path, ports: list[int], workers: int, deadline: float, shard_rows: int) -> Path:
    recipe = {
        "corpus": "dead",
        "sources": [{"path": "urls.csv"}],
        "fetch": {
            "deadline_s": deadline,
            "shard_rows": shard_rows,
            "max_side": 256,
            "robots": False,
            "retries": 0,
            "allow_hosts": [f"127.0.0.1:{port}" for port in ports],
        },
        "run": {"cpus": workers, "min_success": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def measure(site: Path, options: argparse.Namespace, share: float) -> dict[str, Any]:
    """Fetch a list with a share of dead hosts. Return seconds, CPU seconds and counts."""
    dead = round(options.rows * share)
    command = [sys.executable, str(HERE / "dead_hosts.py"), str(site), str(LIVE)]
    server = subprocess.Popen(
        [*command, str(-(-dead // ROWS_A_DEAD_HOST))], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    try:
        live_ports, dead_ports = json.loads(server.stdout.readline())
        order = random.Random(0)
        hosts = [dead_ports[i // ROWS_A_DEAD_HOST] for i in range(dead)]
        hosts += [order.choice(live_ports) for _ in range(options.rows - dead)]
        order.shuffle(hosts)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            lines = [f"http://127.0.0.1:{port}/{i}.jpg,image {i}" for i, port in enumerate(hosts)]
            (folder / "urls.csv").write_text("\n".join(["url,caption", *lines]) + "\n")
            recipe = recipe_of(
                folder, live_ports + dead_ports, options.workers, options.deadline, options.shard_rows
            )
            return run(recipe)
    finally:
        server.terminate()
        server.wait()


def run(recipe: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "rasterloom", "run", str(recipe), "--until", "images", "--log", "json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "RAY_worker_niceness": "0"}
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    show = [sys.executable, "-m", "rasterloom", "versions", "log", str(recipe), "--format", "json"]
    log = [
        json.loads(line)
        for line in subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    (images,) = (entry["record"] for entry in log if entry["table"] == "images")
    return {"counts": images["counts"], "seconds": images["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shares", type=float, nargs="*", default=[0, 0.1, 0.3])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=10)
    parser.add_argument("--shard-rows", type=int, default=400)
    options = parser.parse_args()
    print(f"{options.rows} images of 256 px on {LIVE} hosts, {options.workers} workers")
    print(f"{'dead':>5} {'seconds':>8} {'times':>6}   outcomes")
    first = 0.0
    with tempfile.TemporaryDirectory() as name:
        site = Path(name)
        for number, data in enumerate(photographs(320, 320, 8)):
            (site / f"{number}.jpg").write_bytes(data)
        for share in options.shares:
            found = measure(site, options, share)
            first = first or found["seconds"]
            times = found["seconds"] / first
            print(f"{share:>5.0%} {found['seconds']:>8.1f} {times:>6.2f}   {found['counts']}", flush=True)


if __name__ == "__main__":
    main()
