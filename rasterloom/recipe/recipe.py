"""The whole recipe, and the short forms that it may be written in."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.filtering import Keep, Score
from rasterloom.recipe.run import Run
from rasterloom.recipe.sampling import Sample
from rasterloom.recipe.sources import Source
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Train
from rasterloom.schema import StepKind


class Recipe(Section):
    corpus: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@[A-Za-z0-9_.-]+)?$")]
    """Name of the corpus: a namespace of tables in the workspace. ``name@branch`` reads and commits to a
    branch of it, ``name@tag`` and ``name@snapshot`` read a version that does not change."""
    workspace: str = "./work"
    """A folder, or s3://bucket/prefix; a relative folder is taken from the recipe's folder."""
    catalog: dict[str, str] = Field({})
    """Properties for pyiceberg's load_catalog; an SQLite file in a local workspace when empty. Secrets are
    better given as variables: PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL for ``credential``."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where pairs come from."""
    fetch: Fetch = Fetch()
    """How images are fetched and stored."""
    score: tuple[Score, ...] = (Score(name="quality"),)
    """What is measured of each image and caption: ``quality``, or ``{clip: {clip: FOLDER}}`` with options."""
    keep: Keep = Keep()
    """Which images are kept: a rule in SQL, or the section."""
    tokenize: Tokenize = Tokenize()
    """How a kept pair becomes a sequence of tokens."""
    train: Train | None = None
    """The stages of training; nothing is trained when null."""
    sample: Sample = Sample()
    """What the trained model draws for the report."""
    run: Run = Run()
    """How fast, and on what."""
    _folder: str = PrivateAttr("")

    @property
    def digest(self) -> str:
        """What records know the recipe by: all of it but ``run``, wherever its folder lies."""
        text = self.json_from_folder(exclude={"run"})
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def json_from_folder(self, **options: Any) -> str:
        """The recipe as JSON, with paths below its folder relative to it: jobs have it in other places."""
        text = self.model_dump_json(**options)
        return text.replace(json.dumps(f"{self._folder}/")[1:-1], "") if self._folder else text

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """Accept ``keep: SQL`` beside ``dedup:``, and bare scorer names, as the README shows them."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("keep"), str):
            data["keep"] = {"rule": data["keep"]}
        if "dedup" in data and isinstance(data.setdefault("keep", {}), dict):
            data["keep"] = {**data["keep"], "dedup": data.pop("dedup")}
        if isinstance(data.get("score"), list | tuple):
            data["score"] = [_scorer(item) for item in data["score"]]
        return data

    @model_validator(mode="after")
    def _s3_has_catalog(self) -> "Recipe":
        if self.workspace.startswith("s3://") and not self.catalog:
            raise ValueError(
                "catalog: required with a workspace on S3, as S3 cannot hold the SQLite file that a local "
                "workspace has; for example {type: rest, uri: https://catalog.example.org}"
            )
        return self

    @model_validator(mode="after")
    def _takes_of_stages_that_there_are(self) -> "Recipe":
        stages = len(self.train.stages) if self.train else 0
        for name in self.run.steps:
            number = StepKind.part(name)
            if StepKind.of(name) is StepKind.TRAIN and number and int(number) > stages:
                raise ValueError(f"run.steps: {name}: train.stages has {stages}")
        return self

    @model_validator(mode="after")
    def _kept_states_fit(self) -> "Recipe":
        """Not of `Train`, which steps read back with one stage alone."""
        for number, stage in enumerate(self.train.stages if self.train else ()):
            where = f"train.stages[{number}].optimizer_state"
            if stage.optimizer_state == "keep" and not number:
                raise ValueError(f"{where}: keep takes a stage before it")
            before = self.train.stages[number - 1] if self.train else stage
            if stage.optimizer_state == "keep" and stage.freeze != before.freeze:  # the frozen have no state
                raise ValueError(f"{where}: keep takes the same freeze as the stage before it")
        return self


def _scorer(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, dict) and "name" not in item and len(item) == 1:
        (name, options), *_ = item.items()
        return {"name": name, "options": options or {}}
    return item
