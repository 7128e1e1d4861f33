"""Check of the wheel: built, installed without what only tests need, and used.

    python scripts/check_wheel.py
    python scripts/check_wheel.py --wheel dist/rasterloom-0.1.0-py3-none-any.whl --python bare/bin/python

Without a Python to use it makes an environment of links, in a second: the wheel is installed in it, and of
this Python's packages it has those that the wheel's requirements name, and theirs, and no others. A package
that is imported and not required is missing there, as it is from `pip install rasterloom`. The second form
takes an environment that pip made of the wheel.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rasterloom"
IMPORT_ALL = """
import importlib, pkgutil, sys
import rasterloom
assert rasterloom.__file__.startswith(sys.prefix), rasterloom.__file__
optional = set(sys.argv[1:])
names = [module.name for module in pkgutil.walk_packages(rasterloom.__path__, "rasterloom.")]
for name in names:
    try:
        if name != "rasterloom.__main__":
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in optional:
            raise
"""


def build(folder: Path) -> Path:
    """Build the wheel of this tree."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def missing_files(wheel: Path, tracked: Iterable[str]) -> list[str]:
    """Files of the package in git or in the wheel alone."""
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith(f"{PACKAGE}/")}
    expected = set(tracked)
    return [f"not in the wheel: {n}" for n in sorted(expected - packed)] + [
        f"not in git: {n}" for n in sorted(packed - expected)
    ]


def requirements(wheel: Path) -> list[str]:
    """Requirements of a wheel, by its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def needed(required: Iterable[str]) -> dict[str, Distribution]:
    """Installed distributions that requirements name, and theirs.

    An extra counts where one of them asks for it.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(text, "") for text in required]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found[name] = distribution(name)
        for wanted in {("", name), *((e, name) for e in requirement.extras)} - seen:
            seen.add(wanted)
            waiting += [(theirs, wanted[0]) for theirs in found[name].requires or ()]
    return found


def files_of(dist: Distribution) -> list[PurePosixPath]:
    """Files of an installed distribution, by its record."""
    return [PurePosixPath(row[0]) for row in csv.reader((dist.read_text("RECORD") or "").splitlines())]


def link(chosen: dict[str, Distribution], site: Path) -> None:
    """Link distributions into a folder, by file where others share theirs."""
    owners = defaultdict(set)
    for dist in distributions():
        owner = canonicalize_name(dist.name)  # parsed anew each time
        for file in files_of(dist):
            owners[file.parts[0]].add(owner)
    for name, dist in chosen.items():
        for file in files_of(dist):
            top = file.parts[0]
            if top in ("..", "__pycache__"):  # programs, and what Python compiles anew
                continue
            part = Path(top) if owners[top] == {name} else Path(file)
            place = site / part
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(str(dist.locate_file(part))))


def environment(folder: Path, wheel: Path) -> Path:
    """Make an environment of the wheel and what it requires. Return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    link(needed(requirements(wheel)), site)
    return python


def optional(required: Iterable[str]) -> list[str]:
    """Distributions that extras alone require: their modules may be missing."""
    parsed = [Requirement(text) for text in required]
    always = {r.name for r in parsed if not r.marker or r.marker.evaluate({"extra": ""})}
    return sorted({r.name for r in parsed} - always)


def use(python: Path, folder: Path, may_miss: Iterable[str]) -> None:
    """Import all modules, and go from a list of images to tars.

    A module that imports one of `may_miss`, by the name of its distribution, is left out.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV"))}
    env = {**kept, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

    def call(*words: str) -> None:
        command = [str(python.parent / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")

    lines = ["image,caption"]
    for number in range(4):
        Image.effect_noise((96, 96), 40 + 20 * number).convert("RGB").save(folder / f"{number}.png")
        lines.append(f"{number}.png,noise number {number}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    call(python.name, "-c", IMPORT_ALL, *may_miss)
    call(PACKAGE, "--help")
    call(PACKAGE, "init", "list.csv", "--out", "recipe.yaml")
    call(PACKAGE, "plan", "recipe.yaml")
    call(PACKAGE, "fetch", "list.csv", "--out", "corpus", "--quiet")
    assert list(folder.glob("corpus/data/*.tar")), "fetch wrote no tar"


def main() -> None:
    """Check a wheel, and print that it is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="a wheel that is there; else one is built")
    parser.add_argument("--python", type=Path, help="Python of an environment that pip made of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = options.wheel or build(folder)
        listed = subprocess.run(
            ["git", "ls-files", PACKAGE], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
        )
        if faults := missing_files(wheel, listed.stdout.split()):
            raise SystemExit("\n".join(faults))
        python = options.python or environment(folder / "env", wheel)
        (folder / "user").mkdir()
        use(python.absolute(), folder / "user", optional(requirements(wheel)))
    print(f"{wheel.name}: all files are there, and all that it imports is required")


if __name__ == "__main__":
    main()
