"""Files of infra/, and shell scripts run with stand-ins."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

INFRA = Path(__file__).parents[2] / "infra"
RETRY = INFRA / "docker" / "retry.sh"


def files(pattern):
    """Files of infra/ by a pattern."""
    return sorted(INFRA.glob(pattern))


@dataclass
class Shell:
    """Stand-ins for commands, each a bash body.

    All write into one log. `sleep` takes no time. CODES are the exit codes of `$(next_code)`, one a call, and
    the last for ever.
    """

    folder: Path
    commands: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the stand-ins."""
        self.log = self.folder / "log"
        self.log.touch()
        tools = self.folder / "bin"
        tools.mkdir()
        (self.folder / "lib.sh").write_text(LIBRARY)
        for name, body in {"sleep": "/usr/bin/sleep 0.01", **self.commands}.items():
            (tools / name).write_text(f'#!/bin/bash\nsource "$FOLDER/lib.sh"\n{body}\n')
            (tools / name).chmod(0o755)
        (tools / "rasterloom-retry").symlink_to(RETRY)  # as in the images
        paths = {"PATH": f"{tools}:/usr/bin:/bin", "FOLDER": str(self.folder), "HOME": str(self.folder)}
        self.env = {**paths, "CODES": "0", **self.env}

    def start(self, *command, **env):
        """Start a command in a session of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, process):
        """Wait for a command; its exit code and what it printed. What it left behind is killed."""
        try:
            code = process.wait(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with process.stdout as stream:
            return code, stream.read()

    def run(self, *command, **env):
        """Exit code of a command, and what it printed."""
        return self.end(self.start(*command, **env))

    def said(self):
        """Lines of the log."""
        return self.log.read_text().splitlines()

    def count(self, start):
        """Number of lines of the log that begin so."""
        return sum(line.startswith(start) for line in self.said())


LIBRARY = r"""
log() { echo "$*" >> "$FOLDER/log"; }
next_code() {
    local codes=($CODES) n
    n=$(cat "$FOLDER/calls" 2> /dev/null || echo 0)
    echo $((n + 1)) > "$FOLDER/calls"
    echo "${codes[$((n < ${#codes[@]} ? n : ${#codes[@]} - 1))]}"
}
"""
