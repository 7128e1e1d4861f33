"""Registry of scorers, built in and of plug-ins, and scoring of shards."""

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from rasterloom import schema
from rasterloom.filtering.options import make_by_name
from rasterloom.filtering.scorers.aesthetic import AestheticScorer
from rasterloom.filtering.scorers.base import Batch, Captions, Images, Scorer, Scores, floats
from rasterloom.filtering.scorers.captions import CaptionScorer, LanguageScorer
from rasterloom.filtering.scorers.classify import ClassifyScorer
from rasterloom.filtering.scorers.clip import ClipScorer
from rasterloom.filtering.scorers.flatness import flatness
from rasterloom.filtering.scorers.nsfw import NsfwScorer
from rasterloom.filtering.scorers.quality import PARAMETERS, load_photographs, niqe
from rasterloom.filtering.scorers.scene import SceneScorer
from rasterloom.filtering.scorers.text_area import TextAreaScorer
from rasterloom.recipe.filtering import Score
from rasterloom.utils import plugins
from rasterloom.utils.parallel import ahead
from rasterloom.utils.plugins import Plugin
from rasterloom.utils.redact import cut, safe

BATCH_ROWS = 64
BATCH_PIXELS = 32_000_000  # of decoded images held at once, 3 bytes each; a single one may have more

logger = logging.getLogger(__name__)


class QualityScorer:
    """NIQE, and `quality`: 1 for a perfect image, 0.5 for a middling photograph, 0 for a ruined one.

    `quality` halves with each `Photographs.median` of NIQE, so that a higher score is better, as with the
    others. Both are null for images that are too small or too flat to tell.
    """

    name = "quality"
    version = "1"
    columns = floats("quality", "niqe")
    sees = True

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(PARAMETERS.read_bytes()).hexdigest()

    def __call__(self, batch: Batch) -> Scores:
        distance = np.array(batch.each(niqe), np.float64)
        return {"quality": np.exp2(-distance / load_photographs().median), "niqe": distance}


class FlatnessScorer:
    """The share of an image in which nothing changes, see `flatness`."""

    name = "flatness"
    version = "1"
    digest = ""
    columns = floats("flatness")
    sees = True

    def __call__(self, batch: Batch) -> Scores:
        return {"flatness": np.array(batch.each(flatness), np.float64)}


SCORERS: dict[str, Callable[..., Scorer]] = {
    scorer.name: scorer
    for scorer in (
        QualityScorer,
        FlatnessScorer,
        AestheticScorer,
        ClipScorer,
        ClassifyScorer,
        NsfwScorer,
        TextAreaScorer,
        LanguageScorer,
        CaptionScorer,
        SceneScorer,
    )
}

MEMBERS = ("name", "version", "digest", "columns", "sees", "__call__")  # of a scorer

_ON_GPU = {"aesthetic", "classify", "clip"}  # scores that a GPU is worth taking for


def load_plugin(plugin: Plugin) -> Callable[..., Scorer]:
    """Load what makes the scorer of a plug-in. PluginError if it is none."""
    make: Callable[..., Scorer] = plugin.load((), SCORERS)
    if isinstance(make, type):
        plugin.check(make, MEMBERS)
    return make


def make_scorers(configs: Sequence[Score]) -> list[Scorer]:
    """Make the scorers that a recipe names. Large weights are loaded when the first image is scored.

    Raises:
        ValueError: a scorer or an option is unknown, named twice or lacking, or a file of weights is missing
    """
    scorers: list[Scorer] = []
    for config in configs:
        made = _make(config)
        if any(scorer.name == made.name for scorer in scorers):
            raise ValueError(f"the score {made.name} is named twice")
        scorers.append(made)
    return scorers


def _make(config: Score) -> Scorer:
    made: Scorer = make_by_name("score", plugins.SCORERS, config, SCORERS, load_plugin, MEMBERS)
    return made


def plugin_identity(configs: Sequence[Score]) -> dict[str, Any]:
    """Return what the plug-ins among scorers add to a step's identity."""
    return plugins.identity(plugins.SCORERS, (config.name for config in configs), SCORERS)


def wants_gpu(configs: Sequence[Score]) -> bool:
    """Tell whether a GPU is worth taking for some of the scorers. A plug-in says so by ``uses_gpu``."""
    return any(
        config.name in _ON_GPU or (config.name not in SCORERS and getattr(_make(config), "uses_gpu", False))
        for config in configs
    )


def identity(configs: Sequence[Score]) -> dict[str, str]:
    """Return what each score is computed by: name -> version and digest. Loads no model."""
    return {s.name: f"{s.version}:{s.digest}" if s.digest else s.version for s in make_scorers(configs)}


def score_columns(configs: Sequence[Score]) -> pa.Schema:
    """Return the columns that the scorers of a recipe give.

    Raises:
        ValueError: as ``make_scorers``, or two scorers give one column.
    """
    scorers = make_scorers(configs)
    taken = dict.fromkeys(schema.SCORES.names, "the table")
    for scorer in scorers:
        for column in scorer.columns:
            if column in taken:
                raise ValueError(f"the score {scorer.name} gives a column {column}, as {taken[column]} does")
            taken[column] = scorer.name
    return _columns(scorers)


def _columns(scorers: Sequence[Scorer]) -> pa.Schema:
    return pa.schema([field for scorer in scorers for field in scorer.columns.items()])


def score_shard(images: pa.Table, scorers: Sequence[Scorer]) -> pa.Table:
    """Score a shard: `schema.SCORES` and the columns of the scorers, a row for each row of `images`.

    Args:
        images: `schema.IMAGES` with the bytes of the images

    A row without an image has null scores, and so has one where a scorer cannot say.
    """
    columns = _columns(scorers)
    sees = any(scorer.sees for scorer in scorers)
    threads = max((getattr(scorer, "feeders", 1) for scorer in scorers), default=1)
    parts: dict[str, list[pa.Array]] = {name: [] for name in columns.names}
    rows: list[int] = []
    for numbers, batch in _batches(images, sees, threads) if scorers else ():
        rows += numbers
        for scorer in scorers:
            scores = scorer(batch)
            for name, kind in scorer.columns.items():
                parts[name].append(_array(scores[name], kind))
    # The rows that were scored, in order, are put where they belong; what lies between them is null.
    place = np.full(len(images), -1)
    place[rows] = np.arange(len(rows))
    indices = pa.array(place, mask=place < 0)
    spread = [pa.chunked_array(parts[name], columns.field(name).type).take(indices) for name in columns.names]
    fields = pa.schema([*schema.SCORES, *columns])
    return pa.table([images["key"], images["shard"], *spread], schema=fields)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """Turn values [n] into an array, NaN into null. A row [d] of a list column with a NaN in it is null."""
    if not pa.types.is_list(kind):
        return pa.array(values, kind, from_pandas=True)
    values = np.asarray(values, np.float32)
    known = ~np.isnan(values).any(axis=1)
    offsets = np.append(0, np.cumsum(np.where(known, values.shape[1], 0)))
    flat = pa.array(values[known].ravel())
    return pa.ListArray.from_arrays(offsets.astype(np.int32), flat, kind, mask=pa.array(~known))


class _Stored(NamedTuple):
    """A row that has an image."""

    row: int
    key: str
    data: bytes
    caption: str | None
    pixels: int


def _batches(images: pa.Table, sees: bool, threads: int) -> Iterator[tuple[list[int], Batch]]:
    """Decode the images there are, some at a time: row numbers, and images with captions.

    Args:
        threads: that decode ahead, as many images as a batch has; 1 decodes when it is asked.
    """
    rows: list[int] = []
    decoded: Images = []
    captions: Captions = []
    for stored, image in _decoded(images, threads) if sees else ((one, None) for one in _stored(images)):
        if image is not None:
            decoded.append(image)
        elif sees:
            continue
        rows.append(stored.row)
        captions.append(stored.caption)
        if len(rows) == BATCH_ROWS or sum(p.size for p in decoded) > 3 * BATCH_PIXELS:
            yield rows, Batch(decoded, captions, threads)
            rows, decoded, captions = [], [], []
    if rows:
        yield rows, Batch(decoded, captions, threads)


def _decoded(images: pa.Table, threads: int) -> Iterator[tuple[_Stored, NDArray[np.uint8] | None]]:
    def work(one: _Stored) -> tuple[_Stored, NDArray[np.uint8] | None]:
        return one, decode(one.data, one.key)

    if threads == 1:
        return map(work, _stored(images))
    least = BATCH_PIXELS // BATCH_ROWS  # so that they are no more than a batch, however small
    return ahead(
        work, _stored(images), threads, most=BATCH_PIXELS, size=lambda stored: max(stored.pixels, least)
    )


def _stored(images: pa.Table) -> Iterator[_Stored]:
    row = -1
    columns = images.select(["key", "image", "caption", "width", "height"])
    for batch in columns.to_batches(max_chunksize=BATCH_ROWS):
        for key, data, caption, width, height in zip(*batch.columns, strict=True):
            row += 1
            if data.is_valid:
                pixels = (width.as_py() or 0) * (height.as_py() or 0)
                yield _Stored(row, key.as_py(), data.as_py(), caption.as_py(), pixels)


def decode(data: bytes, key: str) -> NDArray[np.uint8] | None:
    """Decode a stored image to RGB [h, w, 3], transparency on white. Returns None if it is broken."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if not image.has_transparency_data:
                return np.asarray(image.convert("RGB"))
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("stored image of %s cannot be decoded and has no scores: %s", safe(key), cut(error))
        return None
