"""Scorers: what turns pictures into numbers that the keep rule can ask for."""

import hashlib
import inspect
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from rasterloom import recipe, schema
from rasterloom.filtering.aesthetic import AestheticScorer
from rasterloom.filtering.flatness import flatness
from rasterloom.filtering.quality import PARAMETERS, load_photographs, niqe

Images = list[NDArray[np.uint8]]
Captions = list[str | None]
Scores = dict[str, NDArray[np.float64]]

BATCH_ROWS = 64
BATCH_PIXELS = 32_000_000  # of decoded pictures held at once, 3 bytes each; a single one may have more

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """Gives each picture one or more numbers. What it computes is named by `name`, `version` and `digest`."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the code gives other numbers."""

    @property
    def digest(self) -> str:
        """Of the weights or parameters; empty if it has none."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The float64 columns that it gives."""

    def __call__(self, images: Images, captions: Captions) -> Scores:
        """Score pictures, uint8 RGB [h, w, 3]: float64 [n] for each of `columns`, NaN where it cannot say."""


class QualityScorer:
    """NIQE, and `quality`: 1 for a perfect picture, 0.5 for a middling photograph, 0 for a ruined one.

    `quality` halves with each `Photographs.median` of NIQE, so that a higher score is better, as with the
    others. Both are null for pictures that are too small or too flat to tell.
    """

    name = "quality"
    version = "1"
    columns = ("quality", "niqe")

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(PARAMETERS.read_bytes()).hexdigest()

    def __call__(self, images: Images, captions: Captions) -> Scores:
        distance = np.array([niqe(image) for image in images], np.float64)
        return {"quality": np.exp2(-distance / load_photographs().median), "niqe": distance}


class FlatnessScorer:
    """The share of a picture in which nothing changes, see `flatness`."""

    name = "flatness"
    version = "1"
    digest = ""
    columns = ("flatness",)

    def __call__(self, images: Images, captions: Captions) -> Scores:
        return {"flatness": np.array([flatness(image) for image in images], np.float64)}


SCORERS: dict[str, Callable[..., Scorer]] = {
    scorer.name: scorer for scorer in (QualityScorer, FlatnessScorer, AestheticScorer)
}


def make_scorers(configs: Sequence[recipe.Score]) -> list[Scorer]:
    """Make the scorers that a recipe names. Large weights are loaded when the first picture is scored.

    Raises:
        ValueError: a scorer or an option is unknown, named twice or lacking, or a file of weights is missing
    """
    scorers: list[Scorer] = []
    for config in configs:
        if config.name not in SCORERS:
            raise ValueError(f"unknown score {config.name!r}; known: {', '.join(SCORERS)}")
        if any(scorer.name == config.name for scorer in scorers):
            raise ValueError(f"the score {config.name} is named twice")
        make = SCORERS[config.name]
        _check_options(config, inspect.signature(make).parameters)
        scorers.append(make(**config.options))
    return scorers


def _check_options(config: recipe.Score, options: Mapping[str, inspect.Parameter]) -> None:
    for option, value in config.options.items():
        if option not in options:
            known = ", ".join(options) or "none"
            raise ValueError(f"the score {config.name} has no option {option!r}; known: {known}")
        if not isinstance(value, str):
            raise ValueError(f"the option {option!r} of the score {config.name} takes text (got {value!r})")
    for option, parameter in options.items():
        if parameter.default is parameter.empty and option not in config.options:
            raise ValueError(f"the score {config.name} needs the option {option!r}")


def identity(configs: Sequence[recipe.Score]) -> dict[str, str]:
    """Return what each score is computed by: name -> version and digest. Loads no model."""
    return {s.name: f"{s.version}:{s.digest}" if s.digest else s.version for s in make_scorers(configs)}


def score_columns(configs: Sequence[recipe.Score]) -> list[str]:
    """Return the names of the columns that the scorers of a recipe give."""
    return [column for scorer in make_scorers(configs) for column in scorer.columns]


def score_shard(images: pa.Table, scorers: Sequence[Scorer]) -> pa.Table:
    """Score a shard: `schema.SCORES` and a float64 column a score, a row for each row of `images`.

    Args:
        images: `schema.IMAGES` with the bytes of the pictures

    A row without a picture has null scores, and so has one where a scorer cannot say.
    """
    values = {column: np.full(len(images), np.nan) for scorer in scorers for column in scorer.columns}
    if values:
        for rows, pictures, captions in _batches(images):
            for scorer in scorers:
                for column, scores in scorer(pictures, captions).items():
                    values[column][rows] = scores
    fields = [pa.field(column, pa.float64()) for column in values]
    columns = [pa.array(numbers, pa.float64(), from_pandas=True) for numbers in values.values()]
    return pa.table([images["key"], images["shard"], *columns], schema=pa.schema([*schema.SCORES, *fields]))


def _batches(images: pa.Table) -> Iterator[tuple[list[int], Images, Captions]]:
    """Decode the pictures there are, some at a time: row numbers, pictures, captions."""
    rows: list[int] = []
    pictures: Images = []
    captions: Captions = []
    row = -1
    for batch in images.select(["key", "image", "caption"]).to_batches(max_chunksize=BATCH_ROWS):
        for key, data, caption in zip(*batch.columns, strict=True):
            row += 1
            picture = decode(data.as_py(), key.as_py())
            if picture is None:
                continue
            rows.append(row)
            pictures.append(picture)
            captions.append(caption.as_py())
            if len(rows) == BATCH_ROWS or sum(p.size for p in pictures) > 3 * BATCH_PIXELS:
                yield rows, pictures, captions
                rows, pictures, captions = [], [], []
    if rows:
        yield rows, pictures, captions


def decode(data: bytes | None, key: str) -> NDArray[np.uint8] | None:
    """Decode a stored picture to RGB [h, w, 3], on white where it is transparent; None if there is none."""
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if not picture.has_transparency_data:
                return np.asarray(picture.convert("RGB"))
            white = Image.new("RGBA", picture.size, "white")
            return np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("the stored picture of %s cannot be decoded and has no scores: %s", key, error)
        return None
