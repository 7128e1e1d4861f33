"""The log of a command: to its file, never to the terminal."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, sys
from rasterloom.cli.app import app
from rasterloom.cli.entry import main

@app.command("shaky")
def shaky() -> None:
    logging.getLogger("rasterloom.utils.retry").warning("try 1 of 3 failed")

sys.argv = ["rasterloom", "shaky"]
main()
"""


def shaky(folder: Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)


def test_a_warning_is_in_the_log_file_alone(tmp_path: Path):
    ran = shaky(tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    (log,) = (tmp_path / f"rasterloom-{os.geteuid()}" / "logs").iterdir()
    assert "WARNING" in log.read_text() and "try 1 of 3 failed" in log.read_text()


def test_a_command_without_a_folder_for_it_runs_all_the_same(tmp_path: Path):
    (tmp_path / f"rasterloom-{os.geteuid()}").symlink_to(tmp_path)
    ran = shaky(tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
