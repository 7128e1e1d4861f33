"""Every benchmark, script and example starts: its arguments are explained, or its modules are found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("benchmarks", "scripts", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "airflow_dag.py"  # takes Airflow; tests/examples/test_airflow_dag.py runs its commands
)
# All in one process, as most of the time goes into importing torch.
START = """
import contextlib, io, json, runpy, sys, traceback
found = {}
for file in sys.argv[1:]:
    sys.argv = [file, "--help"]
    text = open(file).read()
    name = "__main__" if "argparse" in text and "__main__" in text else "loaded"
    path, printed = [*sys.path], io.StringIO()
    sys.path.insert(0, file.rpartition("/")[0])
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(file, run_name=name)
        found[file] = "" if name == "loaded" else "no --help"
    except SystemExit as end:
        found[file] = "" if not end.code and printed.getvalue().startswith("usage:") else f"exit {end.code}"
    except BaseException:
        found[file] = traceback.format_exc()
    sys.path[:] = path
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def started() -> dict[str, str]:
    command = [sys.executable, "-c", START, *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.rpartition("FOUND")[2])
    return found


@pytest.mark.parametrize("file", FILES)
def test_starts(started: dict[str, str], file: str) -> None:
    assert started[file] == ""


SMALL = {
    "benchmarks/bench_diff.py": ["2000"],
    "benchmarks/bench_duplicates.py": ["2000"],
    "benchmarks/bench_plan.py": ["20000"],
    "benchmarks/bench_selection.py": ["2000"],
    "benchmarks/bench_scale.py": ["2000", "--workers", "1", "--shard-rows", "500"],
    "benchmarks/bench_sources.py": ["2000"],
    "benchmarks/bench_tokens.py": ["--rows", "64", "--index-rows", "2000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("file", SMALL)
def test_runs_on_few_rows(file: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / file), *SMALL[file]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") > 1
