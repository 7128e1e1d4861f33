"""docs/cluster-quickstart.md, walked: its commands one after the other, on a real S3 server and cluster."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from docblocks import ROOT, blocks
from listening import assert_only_loopback, listening

PAGE = "docs/cluster-quickstart.md"
SERVERS = ("infra/s3/local.sh", "python examples/quickstart/cluster.py")  # of the first and second shell
DEADLINE_S = 600.0


class Reader:
    """The three shells of someone who follows the page, in a folder that looks like a clone."""

    def __init__(self, folder, free_port):
        for name in ("infra", "examples", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self.folder = folder
        self.ray = Path(tempfile.mkdtemp(prefix="rl"))  # names of sockets are short
        names = ("S3", "ICEBERG", "MASTER", "VOLUME", "FILER", "LANCE")
        ports = {f"{name}_PORT": str(free_port()) for name in names}
        # Nothing of whoever tests: the page itself says what is set. No token in another's home, neither.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**kept, **ports, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
        self.dashboard, port = free_port(), free_port()
        given = f"--port {port} --dashboard-port {self.dashboard} --dashboard-agent-listen-port {free_port()}"
        self.other = {  # what stands for what, beside the ids of jobs
            "http://127.0.0.1:8265": f"http://127.0.0.1:{self.dashboard}",
            "ray start --head": f"ray start --head {given} --temp-dir {self.ray} --include-dashboard true",
            "cluster.py work/cluster": f"cluster.py work/cluster --scenes 60 --port {free_port()}",
        }
        self.servers = []
        self.shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def as_here(self, command):
        for theirs, mine in self.other.items():
            command = command.replace(theirs, mine)
        return command

    def serve(self, command, ready):
        """Run what the page has in a shell of its own, until it says that it is ready."""
        log = self.folder / f"server{len(self.servers)}.log"
        with log.open("w") as out:
            words = self.as_here(command).split()
            self.servers.append(
                subprocess.Popen(words, cwd=self.folder, env=self.env, stdout=out, stderr=subprocess.STDOUT)
            )
        until = time.monotonic() + DEADLINE_S
        while ready not in log.read_text():
            assert self.servers[-1].poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.5)

    def run(self, command):
        """Run a command in the third shell; its exit code and what it printed."""
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(f"{self.as_here(command)}\necho; echo @@$?\n")
        self.shell.stdin.flush()
        printed = []
        for line in self.shell.stdout:
            if line.startswith("@@"):
                return int(line[2:]), "".join(printed)
            printed.append(line)
        raise AssertionError("".join(printed))

    def last_job(self):
        _, printed = self.run("rasterloom jobs list --format json")
        return re.findall(r'"id": "(\w+)"', printed)[0]

    def rays(self):
        """The processes of the cluster, whoever their parent is by now."""
        return [
            p for p in psutil.process_iter(["cmdline"]) if str(self.ray) in " ".join(p.info["cmdline"] or ())
        ]

    def assert_only_loopback(self):
        for process in [*self.rays(), *(psutil.Process(server.pid) for server in self.servers)]:
            assert_only_loopback(process, listening(process) or {("nothing", "127.0.0.1", 0)})

    def leave(self):
        mine = self.rays()
        for process in mine:
            process.terminate()
        for process in psutil.wait_procs(mine, timeout=20)[1]:
            process.kill()
        self.shell.kill()
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            server.wait(60)
        shutil.rmtree(self.ray, ignore_errors=True)


@pytest.fixture
def reader(tmp_path, free_port):
    reader = Reader(tmp_path, free_port)
    yield reader
    reader.leave()


@pytest.mark.nightly
def test_the_page_can_be_walked(reader):
    commands = [command.text for block in blocks() if block.page == PAGE for command in block.commands]
    first, second = (next(c for c in commands if c.startswith(start)) for start in SERVERS)
    reader.serve(first, "Iceberg at")
    reader.serve(second, "is ready")
    printed = {}
    for command in commands:
        if command in (first, second):
            continue
        if command.startswith("rasterloom submit") and "--until" not in command:
            recipe = reader.folder / "work/cluster/recipe.yaml"  # what the page tells of before it
            recipe.write_text(recipe.read_text().replace("targets: [64, 96]", "targets: [64, 96, 128]"))
        if "7QaB" in command:
            reader.other["7QaB"] = reader.last_job()[-4:]
        watching = "timeout --signal INT 20 " if " follow " in command else ""
        code, printed[command] = reader.run(watching + command)
        if command.startswith("ray start"):
            reader.assert_only_loopback()
        assert code == 0 or (watching and code in (124, 130)), f"{command}: {printed[command]}"

    doctor, stop, again, whole = (
        next(text for command, text in printed.items() if command.startswith(start))
        for start in (
            "rasterloom doctor",
            "rasterloom jobs stop",
            "rasterloom submit work/cluster/recipe.yaml --until",
            "rasterloom submit work/cluster/recipe.yaml --follow",
        )
    )
    assert not re.search(r"^bad ", doctor, re.M) and "room for 3 workers of CPU 1 each (train/" in doctor
    assert re.search(r"STOPPED|SUCCEEDED", stop)
    assert "done before, nothing to do" in again and "SUCCEEDED" in again
    assert re.search(r"codes/128 +new", whole) and "train/2-96" in whole and "SUCCEEDED" in whole
    diff, page, both = list(printed.values())[-3:]
    assert re.search(r"tokens +\d+ +\d+ +\d+ +0 +0", diff)
    copy = re.search(r"report, a copy: (\S+)", page)
    assert copy and Path(copy[1]).is_file()
    assert "comparison: compare.html" in both and (reader.folder / "compare.html").is_file()
