"""Fetch of a list without a recipe: its images, of one size and in one form.

The workspace lies in the folder of the result, under a name with a dot in front. What was fetched stays
there, so the same command continues where it was stopped, and ends at once when all is done.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from rasterloom.errors import RecipeError
from rasterloom.pipelines.import_export.export_dataset import export
from rasterloom.pipelines.import_export.export_formats import Form
from rasterloom.pipelines.inspection.starter_recipe import Look, refuse_inside
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import KEPT, run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe import loader
from rasterloom.recipe.fetch import Resize
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import StepKind
from rasterloom.utils.json_files import read_json, write_json
from rasterloom.utils.suggest import did_you_mean

WORKSPACE, RECIPE, EXPORTED = ".rasterloom", "recipe.yaml", "exported.json"
LAST = StepKind.SELECTION.value  # which keeps every image
SECTIONS = {"corpus", "workspace", "sources", "fetch", "score", "keep", "run"}
RESULT = ("data", "README.md", "export.json")  # of an export
HEAD = "# Written by `rasterloom fetch`; `rasterloom failures` and the other commands take it as it is.\n"


@dataclass(frozen=True)
class Fetched:
    """Result of a fetch."""

    images: int
    failed: int
    ran: int  # steps
    is_new: bool  # False where the same images were exported before
    recipe: Path


def recipe_of(
    look: Look, folder: Path, size: int | None, settings: Sequence[str] = (), resize: str = ""
) -> Recipe:
    """Make a recipe that fetches a source's images and keeps them all.

    Args:
        folder: of the result.
        size: ``fetch.max_side``; the recipe's default if None.
        resize: ``fetch.resize``; the recipe's default if empty.
        settings: further fields of the sections fetch and run, as in ``fetch.deadline_s=10``.

    Raises:
        RecipeError: a field is wrong, or the folder holds something else.
    """
    refuse_inside(look.guess, folder, "folder")
    if resize and resize not in get_args(Resize):
        message = f"no such mode; {did_you_mean(resize, get_args(Resize))}"
        raise RecipeError(message, field="resize", value=resize)
    data: dict[str, Any] = {
        "corpus": look.corpus,
        "workspace": str(folder.resolve() / WORKSPACE),
        "sources": [look.guess.source.model_dump(mode="json", exclude_unset=True)],
        "fetch": {name: value for name, value in (("max_side", size), ("resize", resize)) if value},
        "score": [],
        "keep": {"rule": "true", "dedup": {"exact": False, "phash_radius": None}},
        "run": {},
    }
    for setting in settings:
        field, sign, value = setting.partition("=")
        section, _, name = field.partition(".")
        if not sign or section not in ("fetch", "run") or not name:
            raise RecipeError(
                "takes a field of the sections fetch or run: fetch.deadline_s=10", field="set", value=setting
            )
        data[section][name] = _value(setting, value)
    try:
        recipe = loader.recipe_of(data, folder, "")
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix(": "), field="set") from None
    _check_folder(folder, recipe)
    return recipe


def _value(setting: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError("its value is not YAML", field="set", value=setting) from None


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Raise RecipeError if a folder holds anything but this source's images."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError("is no folder", field="folder", value=folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    file = folder / WORKSPACE / RECIPE
    if not file.exists():
        raise RecipeError("is not empty: name a new folder", field="folder", value=folder)
    earlier = load_recipe(file).sources[0].paths
    if list(map(_real, earlier)) != list(map(_real, recipe.sources[0].paths)):
        raise RecipeError(
            f"holds the images of {earlier[0]}: name a new folder", field="folder", value=folder
        )


def _real(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def fetch_list(recipe: Recipe, folder: Path, form: Form, progress: Progress, retry: str = "") -> Fetched:
    """Fetch the images of such a recipe, and export them.

    Raises:
        StepFailed: none of the images could be fetched.
        RecipeError, StorageError: as `run` and `export`.
    """
    file = folder / WORKSPACE / RECIPE
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = recipe.model_dump(mode="json", include=SECTIONS, exclude_defaults=True)
    text = HEAD + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    workflow = Workflow(load_recipe(file))
    planned = run(workflow, LAST, progress, retry)
    selection = workflow.status(workflow.step(LAST))
    assert selection.record is not None
    images = sum(selection.record.counts.get(outcome, 0) for outcome in KEPT)
    is_new = _export(workflow, folder, form)
    ran = sum(p.runs for p in planned)
    return Fetched(images, selection.record.rows - images, ran, is_new, file)


def _export(workflow: Workflow, folder: Path, form: Form) -> bool:
    """Export the images, unless the folder holds this very export. Return whether it was made."""
    corpus, mark = workflow.corpus, folder / WORKSPACE / EXPORTED
    now = {"snapshot": corpus.snapshot_id(LAST), "form": form.value}
    if mark.exists() and read_json(mark) == now and (folder / RESULT[0]).exists():
        return False
    draft = folder / WORKSPACE / "exporting"
    shutil.rmtree(draft, ignore_errors=True)
    export(corpus, draft, form, meta=True)
    mark.unlink(missing_ok=True)
    for name in RESULT:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (draft / name).replace(folder / name)
    shutil.rmtree(draft)
    write_json(mark, now)
    return True
