"""Files of infra/, and shell scripts run with stand-ins."""

import contextlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
RETRY = INFRA / "docker" / "retry.sh"


def files(pattern):
    """Files of infra/ by a pattern."""
    return sorted(INFRA.glob(pattern))


def code_of(dockerfile):
    """A Dockerfile without comments, an instruction a line."""
    return re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M))


def copied(dockerfile):
    """Files that the last stage copies from the repository, and their places."""
    last = code_of(dockerfile).rpartition("\nFROM ")[2]
    lines = [line.split()[1:] for line in last.splitlines() if line.startswith("COPY ")]
    return [(INFRA.parent / line[0], Path(line[1])) for line in lines if not line[0].startswith("--from")]


ENTER = ("unshare", "--map-root-user", "--mount", "sh", "-c")


def image(folder, dockerfile):
    """Words that run a command in an image.

    Its programs print their arguments.

    In a namespace of mounts with this machine's /usr and /etc; skips a test where those are not to be had.
    """
    programs, profile = folder / "rasterloom" / "bin", folder / "profile.d"
    programs.mkdir(parents=True)
    profile.mkdir()
    for name in ("ray", "python", "rasterloom"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (programs / name).chmod(0o755)
    for source, place in copied(dockerfile):
        if place.parent == Path("/etc/profile.d"):
            (profile / place.name).write_text(source.read_text())
    mounts = (
        f"mount --bind {profile} /etc/profile.d && mount -t tmpfs none /opt && /bin/mkdir /opt/rasterloom"
    )
    mounts += f" && mount --bind {folder}/rasterloom /opt/rasterloom"
    if subprocess.run([*ENTER, mounts], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount in a namespace of their own")
    return [*ENTER, f'{mounts} && exec env -i HOME=/ PATH=/usr/bin:/bin "$@"', "sh"]


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
