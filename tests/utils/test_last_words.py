"""The last sentence of processes that are killed."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from rasterloom.utils.last_words import last_words
last_words.is_wanted = {wanted}
last_words.arm('it is "over" $HOME')
last_words.arm("said twice")
{end}
"""


@pytest.mark.parametrize(
    ("end", "wanted", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", True, 'it is "over" $HOME\n'),
        ("os._exit(1)", True, 'it is "over" $HOME\n'),
        ("os._exit(1)", False, ""),
        ("", True, ""),
        ("sys.exit(3)", True, ""),
        ("os.kill(0, signal.SIGINT)", True, ""),  # Ctrl-C reaches both
    ],
)
def test_it_is_said_where_the_process_says_nothing(end, wanted, said):
    program = PROGRAM.format(end=end, wanted=wanted)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert done.stderr.splitlines()[-1:] == said.splitlines() or (not said and "over" not in done.stderr)
