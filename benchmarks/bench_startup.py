"""Cost of a run's start: seconds and CPU seconds before the first request, by process. Prints tables.

python benchmarks/bench_startup.py [--images 800] [--repeats 3]

`fetch`, and `run --until images` of a recipe, take a list of small images from a server on loopback, whose
own time does not count. Processes are looked at twenty times a second, so each figure may lack a twentieth
of a second of a process's end. The table is of the repeat with the least CPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bench_fetch import Server, photographs

EVERY_S = 0.05
PARTS = {  # in a process's command line -> what it is
    "gcs_server": "Ray: GCS",
    "raylet/raylet": "Ray: raylet",
    "DashboardAgent": "Ray: dashboard agent",
    "dashboard/agent.py": "Ray: dashboard agent",
    "RuntimeEnvAgent": "Ray: runtime environments' agent",
    "runtime_env/agent/main.py": "Ray: runtime environments' agent",
    "dashboard.py": "Ray: dashboard",
    "ray-dashboard": "Ray: dashboard",
    "log_monitor.py": "Ray: log monitor",
    "monitor.py": "Ray: autoscaler's monitor",
    "default_worker.py": "workers",
    "ray::": "workers",
    "bin/rasterloom": "driver",
    "-m rasterloom": "driver",
}


@dataclass
class Seen:
    """CPU seconds of each process of a run, as last seen."""

    part: dict[int, str] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)

    def look(self, root: psutil.Process) -> None:
        """Look at a process, its children, and those seen before."""
        alive = {}
        with suppress(psutil.Error):
            alive = {p.pid: p for p in [root, *root.children(recursive=True)]}
        for pid in {*alive, *self.cpu}:
            with suppress(psutil.Error):
                process = alive.get(pid) or psutil.Process(pid)
                times, command = process.cpu_times(), " ".join(process.cmdline())
                self.cpu[pid] = max(self.cpu.get(pid, 0.0), times.user + times.system)
                self.part[pid] = next(
                    (w for t, w in PARTS.items() if t in command), self.part.get(pid, "other")
                )

    def by_part(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for pid, seconds in self.cpu.items():
            found[self.part[pid]] += seconds  # type: ignore[assignment]
        return found


@dataclass
class Measured:
    """Seconds of a run, and CPU seconds by part."""

    first_s: float
    all_s: float
    cpu_first: Counter[str]
    cpu_all: Counter[str]
    processes: Counter[str]


def measure(command: list[str], server: Server) -> Measured:
    """Run a command and look at its processes until it ends."""
    seen, looks, began = Seen(), [], time.time()
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    root = psutil.Process(program.pid)
    while program.poll() is None:
        seen.look(root)
        looks.append((time.time(), seen.by_part()))
        time.sleep(EVERY_S)
    ended = time.time()
    if program.returncode:
        raise SystemExit(program.communicate()[1])
    with urllib.request.urlopen(f"{server.base}first") as answer:
        first = float(answer.read())
    at_first = next(parts for when, parts in looks if when >= first)
    return Measured(first - began, ended - began, at_first, seen.by_part(), Counter(seen.part.values()))


def recipe(folder: Path, server: Server) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(
        f"corpus: start\nworkspace: {folder}/work\nsources: [{{path: {folder}/urls.csv, caption: none}}]\n"
        f"fetch: {{allow_hosts: [{server.base.split('/')[2]!r}]}}\n"
    )
    return file


def show(name: str, found: Measured) -> None:
    """Print a table of one command."""
    print(f"\n| {name} | processes | CPU s before the first request | CPU s in all |\n|---|---|---|---|")
    for part, seconds in found.cpu_all.most_common():
        print(f"| {part} | {found.processes[part]} | {found.cpu_first[part]:.1f} | {seconds:.1f} |")
    first, whole = sum(found.cpu_first.values()), sum(found.cpu_all.values())
    print(f"| all | {found.processes.total()} | {first:.1f} | {whole:.1f} |")
    print(f"| by the clock, s | | {found.first_s:.1f} | {found.all_s:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pictures = photographs(256, 256, 8)
    for name in ("fetch", "run --until images"):
        found = []
        for _ in range(options.repeats):
            with (
                tempfile.TemporaryDirectory() as place,
                Server(pictures, Path(place, "site"), False) as server,
            ):
                folder = Path(place)
                urls = "".join(f"{server.base}{number}.jpg\n" for number in range(options.images))
                (folder / "urls.csv").write_text("url\n" + urls)
                host = server.base.split("/")[2]
                command = [sys.executable, "-m", "rasterloom"]
                if name == "fetch":
                    command += ["fetch", f"{folder}/urls.csv", "--out", f"{folder}/corpus"]
                    command += ["--quiet", "--set", f'fetch.allow_hosts=["{host}"]']
                else:
                    command += ["run", str(recipe(folder, server)), "--until", "images", "--quiet"]
                found.append(measure(command, server))
        show(f"`{name}`", min(found, key=lambda one: sum(one.cpu_all.values())))


if __name__ == "__main__":
    main()
