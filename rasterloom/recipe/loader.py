"""Loading of a recipe from its file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rasterloom.errors import RecipeError
from rasterloom.recipe.captions import Caption
from rasterloom.recipe.error_messages import LineOf, explain
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sources import Source
from rasterloom.recipe.suites import Evaluate
from rasterloom.recipe.tokenize import HUB_ID
from rasterloom.recipe.yaml_file import parse, read_text
from rasterloom.recipe.yaml_lines import Lines
from rasterloom.utils.redact import masked

# Options of scorers and judges that are no places, even where a file beside the recipe has the same name.
NO_PLACES = {"label", "column", "revision"}


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Relative paths in it are relative to the recipe's folder.

    Raises:
        RecipeError: the file is missing, is not YAML, or a field is wrong. One line a problem, each with
            the field's name, the value and what it takes.
    """
    path = Path(path)
    text = read_text(path)
    data = parse(path, text)
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds no recipe: it takes fields such as corpus: and sources:")
    return recipe_of(data, path.parent, str(path), Lines(text).of)


def recipe_of(
    data: dict[str, Any], folder: Path, name: str = "recipe", line_of: LineOf = lambda _: None
) -> Recipe:
    """Check the content of a recipe. Relative paths begin in a folder.

    Args:
        name: of the recipe, in errors.
        line_of: line of a field in its file.

    Raises:
        RecipeError: a field is wrong. Each line begins with the name.
    """
    _place_deepspeed_config(data, folder)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{name}{line}" for line in explain(error, data, line_of))) from None
    return _from_folder(recipe, folder.resolve())


def _place_deepspeed_config(data: dict[str, Any], folder: Path) -> None:
    """Resolve the path of DeepSpeed's JSON before validation, which reads it."""
    train = data.get("train")
    stages = train.get("stages") if isinstance(train, dict) else None
    for section in (train, *(stages if isinstance(stages, list) else ())):
        deepspeed = section.get("deepspeed") if isinstance(section, dict) else None
        if isinstance(deepspeed, dict) and isinstance(deepspeed.get("config"), str):
            deepspeed["config"] = str(folder / Path(deepspeed["config"]).expanduser())


def _from_folder(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve the recipe's relative paths against its folder."""

    def resolve(path: str) -> str:
        return path if "://" in path else str((folder / Path(path).expanduser()).resolve())

    def resolve_file(path: str) -> str:
        # A link to a file without its suffix, as in Hugging Face's cache, is known by its own name.
        given = folder / Path(path).expanduser()
        if "://" not in path and given.is_file() and given.suffix != given.resolve().suffix:
            return str(given.parent.resolve() / given.name)
        return resolve(path)

    def place(source: Source) -> Source:
        paths = source.path
        path = resolve_file(paths) if isinstance(paths, str) else tuple(map(resolve_file, paths))
        return source.model_copy(update={"path": path, "root": source.root and resolve(source.root)})

    sources = tuple(map(place, recipe.sources))

    def here(path: str) -> str:  # not resolved further: a link to Python makes an environment
        return str(folder / Path(path).expanduser()) if "/" in path else path

    python, opt_out = recipe.run.img2dataset_python, recipe.fetch.opt_out
    run = recipe.run.model_copy(update={"img2dataset_python": here(python)} if python else {})
    fetch = recipe.fetch.model_copy(update={"opt_out": resolve(opt_out)} if opt_out else {})

    def resolve_if_there(value: Any) -> Any:  # an option may as well be the name of a model on a hub
        return resolve(value) if isinstance(value, str) and (folder / value).exists() else value

    def place_of_weights(value: str) -> str:
        return str(resolve_if_there(value)) if HUB_ID.fullmatch(value) else resolve(value)

    weights, text = recipe.tokenize.weights, recipe.tokenize.text
    tokenize = recipe.tokenize.model_copy(
        update={"weights": weights and place_of_weights(weights), "text": text and resolve(text)}
    )

    score = _with_options(recipe.score, resolve_if_there)
    train = recipe.train and recipe.train.model_copy(update={"init": resolve_if_there(recipe.train.init)})
    caption = recipe.caption and _with_models(recipe.caption, resolve)
    workspace = resolve(recipe.workspace)
    placed = recipe.model_copy(
        update={
            "sources": sources,
            "fetch": fetch,
            "score": score,
            "caption": caption,
            "tokenize": tokenize,
            "train": train,
            "evaluate": _suites_from_folder(recipe.evaluate, resolve_if_there),
            "run": run,
            "workspace": workspace,
        }
    )
    placed._folder = str(folder)
    _check_workspace(workspace)
    return placed


def _suites_from_folder(evaluate: Evaluate, change: Callable[[Any], Any]) -> Evaluate:
    suites = [
        suite.model_copy(
            update={"prompts": change(suite.prompts), "judges": _with_options(suite.judges, change)}
        )
        for suite in evaluate.suites
    ]
    return evaluate.model_copy(update={"suites": tuple(suites)})


def _with_models(caption: Caption, change: Callable[[str], str]) -> Caption:
    by = [
        one.model_copy(update={"local": one.local.model_copy(update={"path": change(one.local.path)})})
        if one.local
        else one
        for one in caption.by
    ]
    return caption.model_copy(update={"by": tuple(by)})


def _with_options(configs: tuple[Score, ...], change: Callable[[Any], Any]) -> tuple[Score, ...]:
    options = [
        {name: value if name in NO_PLACES else change(value) for name, value in config.options.items()}
        for config in configs
    ]
    pairs = zip(configs, options, strict=True)
    return tuple(config.model_copy(update={"options": changed}) for config, changed in pairs)


def _check_workspace(workspace: str) -> None:
    """Raise RecipeError if Iceberg's tables cannot record locations in the workspace."""
    try:
        workspace.encode()
    except UnicodeEncodeError:
        shown = workspace.encode(errors="backslashreplace").decode()
        raise RecipeError(
            "the path is not UTF-8, and Iceberg records text: rename the folder",
            field="workspace",
            value=shown,
        ) from None
    if workspace.startswith("s3://") and re.search(
        r"[?#]", workspace
    ):  # pyiceberg takes it for a URL's query
        raise RecipeError(
            "a prefix on S3 may have no ? or #, which end the path of a URL: take another prefix",
            field="workspace",
            value=masked(workspace),
        )
