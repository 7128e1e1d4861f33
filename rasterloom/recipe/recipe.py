"""Recipe as a whole, with its short forms."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from rasterloom.recipe.base import Section, is_default
from rasterloom.recipe.captions import ALT, Caption
from rasterloom.recipe.fetch import PIXEL_BYTES, WORKER_BYTES, Fetch
from rasterloom.recipe.filtering import Keep, Score, by_name
from rasterloom.recipe.run import Run
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.sources import Source
from rasterloom.recipe.suites import Evaluate
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Train
from rasterloom.schema import StepKind
from rasterloom.utils.formatting import size
from rasterloom.utils.suggest import did_you_mean


class Recipe(Section):
    corpus: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@[A-Za-z0-9_.-]+)?$")]
    """Name of the corpus: a namespace of tables in the workspace. ``name@branch`` reads and commits to a
    branch of it, ``name@tag`` and ``name@snapshot`` read a version that does not change."""
    workspace: str = "./work"
    """Folder or s3://bucket/prefix; relative to the recipe's folder."""
    catalog: dict[str, str] = Field({})
    """Properties for pyiceberg's load_catalog; an SQLite file in a local workspace when empty. Secrets are
    better given as variables: PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL for ``credential``."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of image-text pairs."""
    fetch: Fetch = Fetch()
    """Download of images."""
    score: tuple[Score, ...] = (Score(name="quality"),)
    """Scores of images and captions: ``quality``, or ``{clip: {clip: FOLDER}}`` with options."""
    keep: Keep = Keep()
    """Selection of images: a rule in SQL, or the section."""
    caption: Caption | None = Field(None, exclude_if=is_default(None))
    """Further captions of selected images: a list of captioners, or the section; null: those of the sources
    alone."""
    tokenize: Tokenize = Tokenize()
    """Tokenization of selected pairs."""
    train: Train | None = None
    """Training stages; null: no training."""
    sample: SamplingConfig = SamplingConfig()
    """Images that the trained model generates for the report."""
    evaluate: Evaluate = Field(Evaluate(), exclude_if=is_default(Evaluate()))
    """Suites for ``rasterloom evaluate``."""
    run: Run = Run()
    """Resources and speed."""
    _folder: str = PrivateAttr("")

    @property
    def digest(self) -> str:
        """Digest of the recipe without ``run``, independent of its folder's path."""
        text = self.json_from_folder(exclude={"run"})
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def json_from_folder(self, **options: Any) -> str:
        """Return the recipe as JSON, with paths relative to its folder."""
        text = self.model_dump_json(**options)
        return (
            text.replace(json.dumps(f"{self._folder}/", ensure_ascii=False)[1:-1], "")
            if self._folder
            else text
        )

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
            data["score"] = [by_name(item) for item in data["score"]]
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
    def _draws_captions_that_there_are(self) -> "Recipe":
        known = (ALT, *(self.caption.names if self.caption else ()))
        others = [part.corpus for stage in (self.train.stages if self.train else ()) for part in stage.parts]
        if self.train is None or "@" in self.corpus or any(others):
            return self  # a version has captions of its own
        for weights in self.train.all_captions:
            for name in weights:
                if name not in known:
                    hint = did_you_mean(name, known, "there are ")
                    raise ValueError(f"train.captions: no caption is called {name!r}; {hint}")
        return self

    @model_validator(mode="after")
    def _a_worker_holds_an_image(self) -> "Recipe":
        given, needed = self.run.takes(StepKind.IMAGES).memory, self.fetch.worker_bytes
        if given is not None and given < needed and self.fetch.engine == "rasterloom":
            fits = max(0, int(given) - WORKER_BYTES) // PIXEL_BYTES
            lower = f", or set fetch.max_pixels to {fits}" if fits else ""
            raise ValueError(
                f"run.steps.images.memory: {size(given)} may not hold an image of fetch.max_pixels, with "
                f"which a worker takes up to {size(needed)}: give it more{lower}"
            )
        return self

    @model_validator(mode="after")
    def _samples_of_an_average_that_there_is(self) -> "Recipe":
        if self.sample.ema and self.train and self.train.ema is None:
            raise ValueError("sample.ema: there is no average of weights; set train.ema")
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
