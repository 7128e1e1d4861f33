"""Help, shell completion, and click's messages in our words."""

import os
import subprocess
import sys

import pytest

from rasterloom.cli.app import app
from rasterloom.cli.help import usage_message

ORDER = (
    *(
        "doctor",
        "plan",
        "run",
        "failures",
        "explain",
        "keep",
        "caption",
        "report",
        "serve",
        "train",
        "sample",
        "evaluate",
    ),
    *("tokenize", "embeddings", "tokens", "versions", "submit", "jobs"),
)


def every_command(group=None, path=()):
    """The words of each command, groups included."""
    import typer

    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*path, name))


def test_commands_stand_in_the_order_of_use(rasterloom):
    out = rasterloom("--help")[1]
    lines = [line.strip("│ ").split(" ")[0] for line in out.splitlines()]
    assert [line for line in lines if line in ORDER] == list(ORDER)
    for panel in ("Build a corpus", "Look at a corpus", "Train and use models", "Versions", "Clusters"):
        assert f"─ {panel}" in out


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_a_flag_shows_no_type_and_an_argument_no_braces(rasterloom, command):
    code, out, _ = rasterloom(*command, "-h")
    assert code == 0 and out == rasterloom(*command, "--help")[1]
    usage = out.partition("Usage:")[2].partition("\n")[0]
    assert "<bool>" not in out and "{" not in usage and "[[" not in usage


def test_no_command_shows_the_help_and_nothing_else(rasterloom):
    code, out, err = rasterloom()
    assert (code, err) == (2, "") and out.split() == rasterloom("--help")[1].split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("rasterloom ver", {"versions"}),
        ("rasterloom versions l", {"log", "list", "lineage"}),
        ("rasterloom run --un", {"--until"}),
        ("rasterloom plan r.yaml --format ", {"table", "json"}),
    ],
)
def test_the_shell_completes_commands_options_and_choices(words, found):
    program = "import sys; sys.argv = ['rasterloom']; from rasterloom.cli.entry import main; main()"
    asked = {
        "_RASTERLOOM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == found, done.stderr


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            "No such option: --untill (Possible options: --until, --u)",
            "No such option: --untill. Did you mean --until?",
        ),
        (
            "Invalid value for '--by': Value error, 'hots' is not one of 'reason', 'host'.",
            "Invalid value for '--by': 'hots' is not one of 'reason', 'host'. Did you mean host?",
        ),
        ("'x' is not one of 'reason', 'host'.", "'x' is not one of 'reason', 'host'."),
        ("Input should be greater than or equal to 0.01", "it takes 0.01 or more"),
        ("Missing option '--try'.", "Missing option '--try'."),
    ],
)
def test_messages_of_click(theirs, ours):
    assert usage_message(theirs) == ours
