"""A disk that fills up in the middle of a run, and has room again."""

import os
import subprocess
import sys

import pytest

MIB = 2**20
# Each argument is the disk's size for one run; what is on it after the last one is copied before it goes.
GROWING = """
set -e
mount -t tmpfs -o size=64k tmpfs "$WORK"
for size in "$@"; do
    mount -o remount,size="$size" "$WORK"
    echo "disk of $size"
    "$PYTHON" -m rasterloom run "$RECIPE" --until tokens || echo "ended with $?"
done
cp -a "$WORK" "$COPY"
"""


@pytest.fixture
def on_a_growing_disk(workshop):
    """A function that runs the recipe on a disk of its own, once at each size, and returns what was printed.

    The disk is a tmpfs in a user namespace, which takes no rights of root.
    """
    work = workshop.recipe_file.parent / "work"

    def run(*sizes):
        work.mkdir()
        copy = work.with_name("copy")
        paths = {"WORK": work, "COPY": copy, "RECIPE": workshop.recipe_file, "PYTHON": sys.executable}
        process = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", GROWING, "sh", *map(str, sizes)],
            env={**os.environ, **{name: str(path) for name, path in paths.items()}, "COLUMNS": "500"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert process.returncode == 0, process.stdout
        work.rmdir()
        copy.rename(work)
        return [part.splitlines() for part in process.stdout.split("disk of ")[1:]]

    return run


def on_disk(files):
    """Bytes that files take where a page is 4 kB."""
    return sum(-(-file.size // 4096) * 4096 for file in files)


def test_every_run_ends_in_one_line_and_goes_on_when_there_is_room(workshop, undisturbed, on_a_growing_disk):
    """The disk is full first among the pictures, then in what is made of them."""
    files = undisturbed.corpus.store.files("")
    later = [file for file in files if "/staging/images/" not in file.name]
    too_small = [on_disk(files) // 2, on_disk(files) - on_disk(later) // 2]
    *full, last = on_a_growing_disk(*too_small, on_disk(files) + 64 * MIB)
    for printed in full:
        assert "Traceback" not in "".join(printed)
        assert printed[-1] == "ended with 1"
        assert str(workshop.corpus.store.path()) in printed[-2]
        assert "no space is left on this disk" in printed[-2] and "make room and run the same" in printed[-2]
    first, second = (printed[-2] for printed in full)
    assert first.startswith("images, shard ") and not second.startswith("images, shard "), second
    assert "workspace: " in last[-1], last
    assert workshop.tables() == undisturbed.tables()
    names = [name.rpartition("/")[2] for name in workshop.corpus.store.list("")]
    assert not [name for name in names if name.startswith((".", "preflight"))], "no half file stays behind"
