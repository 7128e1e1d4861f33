"""Package of a recipe's folder for a job, of limited size."""

import fnmatch
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rasterloom.errors import RecipeError
from rasterloom.pipelines.cluster.environment import FILE
from rasterloom.recipe.recipe import Recipe
from rasterloom.sources.files import split_path
from rasterloom.utils.ray_compat import ignore_rules

LIMIT = 100 * 2**20  # bytes that the dashboard takes in one request
LEFT_OUT = (".git", ".venv*", "venv", "__pycache__", "*.egg-info", ".*_cache", FILE)


@dataclass(frozen=True)
class Package:
    """Files of a recipe's folder for a job, with their sizes."""

    folder: Path
    files: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def write(self, path: Path, variables: dict[str, str]) -> None:
        """Write the zip, with a file of the submitter's variables."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.files:
                archive.write(self.folder / name, name)
            if variables:
                archive.writestr(FILE, json.dumps(variables))


def package(recipe_file: Path, recipe: Recipe) -> Package:
    """Look up what the job of a recipe takes along.

    Left out are ``.git``, virtual environments, caches, the workspace, and what ``.gitignore`` and
    ``.rayignore`` files name.

    Raises:
        RecipeError: that is more than a cluster takes, or a source in the folder is left out.
    """
    folder = recipe_file.resolve().parent
    files = {
        str(path.relative_to(folder)): path.stat().st_size for path in _walk(folder, recipe.workspace, [])
    }
    found = Package(folder, files)
    if found.size > LIMIT:
        biggest = sorted(files, key=lambda name: -files[name])[:3]
        named = ", ".join(f"{name} ({files[name] / 2**20:,.0f} MiB)" for name in biggest)
        raise RecipeError(
            f"the recipe's folder {folder} has {found.size / 2**20:,.0f} MiB to send along, and a job takes "
            f"{LIMIT / 2**20:.0f}; biggest: {named}. Put them on S3 or a shared disk, or name them in "
            f"{folder / '.rayignore'}"
        )
    _check_sources(recipe, found)
    return found


def _walk(folder: Path, workspace: str, ignored: list[Callable[[Path], bool]]) -> Iterator[Path]:
    ignored = [*ignored, *ignore_rules(folder)]
    for path in sorted(folder.iterdir()):
        left_out = any(fnmatch.fnmatch(path.name, pattern) for pattern in LEFT_OUT)
        if left_out or str(path) == workspace or any(match(path) for match in ignored):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, workspace, ignored)
        elif path.is_file():
            yield path


def _check_sources(recipe: Recipe, found: Package) -> None:
    for number, source in enumerate(recipe.sources):
        for path in source.paths:
            if "://" in path or not Path(path).is_relative_to(found.folder):
                continue
            name = str(Path(path).relative_to(found.folder))
            if not any(_means(path, found.folder, file) for file in found.files):
                raise RecipeError(
                    f"sources[{number}]: {name} is left out of what the job takes along (.gitignore, "
                    f".rayignore): put it on S3 or a shared disk"
                )


def _means(path: str, root: Path, file: str) -> bool:
    """True if a source's path, relative to ``root``, means a file."""
    name = str(Path(path).relative_to(root))
    folder, _, pattern = split_path(path)
    start = f"{Path(folder).relative_to(root)}/".removeprefix("./") if pattern else ""
    if pattern and file.startswith(start) and fnmatch.fnmatch(file.removeprefix(start), pattern):
        return True
    return file == name or file.startswith(f"{name}/")
