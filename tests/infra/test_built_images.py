"""The image for CPUs, built by buildah from its Dockerfile, and entered as `ray up` and KubeRay do.

No Docker engine is needed. Where the base cannot be pulled, it is Debian's, with Debian's own Python.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from infra_files import INFRA, code_of

DOCKERFILE = INFRA / "docker" / "cpu.Dockerfile"
BASE = f"docker.io/library/{code_of(DOCKERFILE).rpartition('FROM ')[2].split()[0]}"
# What was started in a container ends with it, and sees nothing else: `ray stop` looks for every Ray.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
ENTER = 'exec bash --login -c "$1"'
RECIPE = """
corpus: built
workspace: /home/ray/work
sources: [{path: /home/ray/images, kind: folder, caption: none}]
run: {cpus: 1}
"""
DRAW = """
from pathlib import Path
from PIL import Image
Path("/home/ray/images").mkdir()
for number in range(3):
    Image.new("RGB", (64, 64), (80 * number, 9, 9)).save(f"/home/ray/images/{number}.png")
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("buildah") and shutil.which("debootstrap") and os.geteuid() == 0),
    reason="needs root, and buildah and debootstrap (Debian: apt-get install buildah debootstrap)",
)


def pip_settings():
    """This machine's settings of pip, which the builds need where they are not pip's own."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in sorted(listed.splitlines()):  # ":env:" is before "global", and overrides it
        name, _, value = line.partition("=")
        found.setdefault(name.rpartition(".")[2], value.strip("'"))
    return {name: value for name, value in found.items() if name in ("cert", "find-links", "index-url")}


class Store:
    """Images and containers of buildah, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.options = [f"--root={folder}/store", f"--runroot={folder}/run", "--storage-driver=vfs"]

    def run(self, command, *arguments, **options):
        words = [*ALONE, "buildah", *self.options, command, *map(str, arguments)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout.strip()

    def make_base(self, pip):
        """Debian with Debian's Python, under the name of the base."""
        root = self.folder / "base"
        debian = ["debootstrap", "--variant=minbase", "--include=ca-certificates,python3-venv", "bookworm"]
        subprocess.run([*debian, root], check=True, stdout=subprocess.DEVNULL)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        lines = [f"{name} = {value}" for name, value in pip.items()]
        (root / "etc/pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        if "cert" in pip:  # of whoever this machine's pip trusts
            shutil.copy(pip["cert"], root / pip["cert"].lstrip("/"))
        container = self.run("from", "--isolation=chroot", "scratch").splitlines()[-1]
        self.run("add", "--quiet", container, root, "/")
        self.run("config", "--env=PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self.run("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root)

    def build(self, pip):
        places = [value for value in pip.get("find-links", "").split() if Path(value).is_dir()]
        index = pip.get("index-url", "https://pypi.org/simple")
        self.run(
            "bud",
            "--isolation=chroot",
            "--pull-never",
            "--layers=false",
            *[f"--volume={place}:{place}:ro" for place in places],
            f"--build-arg=TORCH_INDEX={index}",
            f"--file={DOCKERFILE}",
            "--tag=rasterloom",
            INFRA.parent,
            timeout=3600,
        )


@pytest.fixture(scope="module")
def enter(tmp_path_factory):
    """A function that runs a script in the image, in a login shell of its user, and gives what it printed."""
    store, pip = Store(tmp_path_factory.mktemp("buildah")), pip_settings()
    try:
        store.make_base(pip)
        store.build(pip)
        container = store.run("from", "--isolation=chroot", "rasterloom").splitlines()[-1]
        yield lambda script: store.run("run", container, "--", "sh", "-c", ENTER, "sh", script, timeout=900)
    finally:
        shutil.rmtree(store.folder)


def test_it_is_what_the_clusters_take(enter):
    who = enter("id -un; id -u; pwd; echo $HOME; umask")
    assert who.splitlines()[:4] == ["ray", "1000", "/home/ray", "/home/ray"]
    found = enter("command -v ray python rasterloom rasterloom-retry")
    assert found.splitlines() == [
        *(f"/opt/rasterloom/bin/{name}" for name in ("ray", "python", "rasterloom")),
        "/usr/local/bin/rasterloom-retry",
    ]
    enter("ssh -V && rsync --version && wget --version && tini --version")
    assert enter("for name in gcc git; do command -v $name; done; ls -d /src 2> /dev/null; true") == ""


def test_a_head_starts_and_answers_who_has_its_token(enter):
    """As `ray up` starts one, on this machine's loopback."""
    token = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef"
    loopback = "export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"  # Ray's name for a node on its own
    head = "ray start --head --port=0 --node-ip-address=127.0.0.1 --include-dashboard=false --num-cpus=1"
    status = "ray status --address $(cat /tmp/ray/ray_current_cluster)"
    wait = f"for try in $(seq 60); do {status} | grep 0.0/1.0 && break; sleep 1; done"
    stranger = f"RAY_AUTH_TOKEN={'f' * 32} {status}; true"
    said = enter(f"{token}; {loopback}; {head} && {wait}; {stranger}")
    assert "0.0/1.0 CPU" in said and "AuthenticationError" in said.rpartition("0.0/1.0 CPU")[2], said


def test_a_run_makes_a_corpus_in_it(enter):
    script = f"python <<'EOF' && cat > r.yaml <<'END'\n{DRAW}\nEOF\n{RECIPE}\nEND\n"
    said = enter(f"{script}rasterloom run r.yaml --until images && rasterloom plan r.yaml --until images")
    assert "ok 3" in said, said


def test_its_package_is_this_one(enter):
    import rasterloom

    assert enter("rasterloom --version").split()[-1] == rasterloom.__version__
    assert enter("rasterloom --help").lstrip().startswith("Usage: rasterloom")
