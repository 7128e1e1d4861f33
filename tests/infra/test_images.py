"""The images: what their Dockerfiles build, and what a login shell in them finds."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from infra_files import INFRA, code_of, copied, files, image

import rasterloom

ROOT = INFRA.parent
DOCKERFILES = pytest.mark.parametrize("path", files("docker/*.Dockerfile"), ids=lambda p: p.name)


@DOCKERFILES
def test_images(path):
    """Pinned, in stages, not as root, with the package's own pins and nothing of the build left in."""
    text, code = path.read_text(), code_of(path)
    words = [line.split() for line in code.splitlines() if line]
    from_lines = [line for line in words if line[0] == "FROM"]
    assert from_lines[-2][2:] == ["AS", "build"]
    assert from_lines[-1][1] == "python:3.11.14-slim-bookworm"  # Ray wants the same Python on all nodes
    for line in from_lines:
        assert re.search(r":.*\d+\.\d+|\$\{CUDA\}", line[1]) and "latest" not in line[1]
    last = code.rpartition("\nFROM ")[2]
    assert "\nUSER ray" in last and "COPY --from=build" in last and "pip install" not in last
    for line in code.splitlines():
        if "apt-get install" in line:
            assert "--no-install-recommends" in line
        if "apt-get update" in line:
            assert "rm -rf" in line and "/var/lib/apt/lists/*" in line
        if re.search(r"pip install\b.*(torch|'\.)", line):
            assert "-c constraints.txt" in line
    taken = {name for line in words if line[0] == "COPY" and "--from=" not in line[1] for name in line[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert all((ROOT / name).exists() and f"!{name.removeprefix('./')}" in ignored for name in taken)
    assert f":{rasterloom.__version__}-" in text


@DOCKERFILES
def test_each_step_is_a_script_that_a_shell_takes(path):
    for line in code_of(path).splitlines():
        if line.startswith("RUN "):
            subprocess.run(["sh", "-n", "-c", line.removeprefix("RUN ")], check=True)


@DOCKERFILES
def test_ray_up_finds_its_commands_in_it(path):
    """Ray's updater calls rsync, and the head's autoscaler ssh, in the container."""
    last = code_of(path).rpartition("\nFROM ")[2]
    installed = next(line for line in last.splitlines() if "apt-get install" in line).split()
    assert {"openssh-client", "rsync", "wget", "tini"} <= set(installed)


@DOCKERFILES
def test_a_login_shell_finds_ray_and_its_python(path, tmp_path):
    """In this machine's /usr and /etc with what the image copies, as `ray up` and KubeRay enter it."""
    words = [*image(tmp_path, path), "/bin/bash", "--login", "-c", "ray a && python b && rasterloom c"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ray a", "python b", "rasterloom c"]


@DOCKERFILES
def test_retry_is_a_command_in_it(path):
    (source,) = (source for source, place in copied(path) if place == Path("/usr/local/bin/rasterloom-retry"))
    assert os.access(source, os.X_OK)


def test_the_gpu_image_has_efa_or_is_not_built():
    code = code_of(INFRA / "docker" / "gpu.Dockerfile")
    (line,) = (line for line in code.splitlines() if "efa_installer.sh" in line)
    assert "--skip-kmod" in line and line.endswith("ldconfig -p | grep -q libnccl-net.so")
    assert code.index("efa_installer.sh") < code.index("\nUSER ray")
