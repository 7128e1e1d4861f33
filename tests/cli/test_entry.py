"""Ctrl-C at moments of a real process, from its first imports to its end."""

import subprocess
import sys

import pytest

from rasterloom.errors import INTERRUPTED, STOPPED, STOPPED_TEXT

AT_IMPORT = """
import signal, sys

class CtrlC:
    def __init__(self, module):
        self.module = module

    def find_spec(self, name, path, target=None):
        if name == self.module:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

from rasterloom.cli.entry import main  # what comes before it is Python's own
sys.meta_path.insert(0, CtrlC(sys.argv.pop()))
main()
"""

IN_A_DESTRUCTOR = """
import signal, sys, time

class Lost:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Command:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            Lost()
            for _ in range(1000):
                time.sleep(0.01)

from rasterloom.cli.entry import main
sys.meta_path.insert(0, Command())
main()
"""

AT_THE_END = """
import signal
from rasterloom.cli.entry import main
leave = sys.exit

def exit_after_ctrl_c(code):
    signal.raise_signal(signal.SIGINT)
    leave(code)

sys.exit = exit_after_ctrl_c
main()
"""


def python(code, *arguments):
    """Exit code, stdout and stderr of code whose command line is that of ``rasterloom``."""
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", ["rasterloom.errors", "typer", "rasterloom.cli.app", "pydantic", "yaml"])
def test_ctrl_c_during_an_import_is_one_line(tmp_path, module):
    (tmp_path / "recipe.yaml").write_text("corpus: demo\nsources: [{path: pairs.csv}]\n")
    found = python(AT_IMPORT, "plan", str(tmp_path / "recipe.yaml"), module)
    assert found == (INTERRUPTED, "", f"{STOPPED_TEXT}\n")


@pytest.mark.parametrize("module", ["typer", "pydantic"])
def test_sigterm_ends_it_in_one_line_with_an_exit_code_of_its_own(tmp_path, module):
    (tmp_path / "recipe.yaml").write_text("corpus: demo\nsources: [{path: pairs.csv}]\n")
    code = AT_IMPORT.replace("SIGINT", "SIGTERM")
    assert python(code, "plan", str(tmp_path / "recipe.yaml"), module) == (STOPPED, "", f"{STOPPED_TEXT}\n")


def test_ctrl_c_that_comes_in_a_destructor_is_not_lost():
    assert python(IN_A_DESTRUCTOR, "--version") == (INTERRUPTED, "", f"{STOPPED_TEXT}\n")


def test_ctrl_c_when_all_is_done_leaves_the_result():
    code, out, err = python(AT_THE_END, "--version")
    assert (code, err) == (0, "") and out


def test_what_is_not_ctrl_c_in_a_destructor_is_still_shown():
    code = IN_A_DESTRUCTOR.replace("signal.raise_signal(signal.SIGINT)", "raise ValueError('a bug')")
    assert "ValueError: a bug" in python(code.replace("range(1000)", "()"), "--version")[2]
