"""Tokenization of one shard of kept images to ``tokens`` rows.

Images are decoded and cropped in threads, one batch ahead of the codec. A batch holds one bucket, so
all its images have one shape. A row that cannot be tokenised is told apart, with its reason.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rasterloom.errors import one_line
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import T2I, TEXT_BUCKET, TOKENS, Profile, bucket_name
from rasterloom.tokenize.buckets import Size, bucket_sizes
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.conversation import Encoded, encode
from rasterloom.tokenize.crop import CropPlan
from rasterloom.tokenize.cropping import crop_as_planned
from rasterloom.tokenize.limits import crop_seed, image_fault, length_fault, names_size
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.prompt_templates import ANY_SIZE, Template, Turn, templates_of
from rasterloom.tokenize.sample_rows import COLUMNS, TokenizeSample, asks, plan_images, sample_of, turns_of
from rasterloom.tokenize.text_tokenizer import TextEncoder
from rasterloom.tokenize.unirep import frame_batch

THREADS = 2  # that decode and crop; more only compete with a codec on the CPU
SCORES = ("quality", "aesthetic", "clip")
Wait = Callable[[], NDArray[np.int32]]
"""Call that returns the codes of images that a codec has begun to encode."""

FAILURES = pa.schema([("key", pa.string()), ("reason", pa.string())])

_EXIF_ORIENTATION = 0x0112


class Tokenized(NamedTuple):
    tokens: pa.Table  # schema.TOKENS, by bucket, then key
    failures: pa.Table  # FAILURES, by key


@dataclass(frozen=True)
class _Job:
    """One image of a sample."""

    key: str
    number: int
    data: bytes
    plan: CropPlan
    config: Tokenize


@dataclass(frozen=True)
class _Planned:
    sample: TokenizeSample
    plans: list[CropPlan]  # of each image
    turns: list[Turn]

    @property
    def size(self) -> Size:
        """Width and height that the row is filed under, in pixels: the main image's, 0 for text alone."""
        return self.plans[self.sample.main].bucket if self.plans else (0, 0)

    @property
    def bucket(self) -> str:
        return bucket_name(*self.size) if self.plans else TEXT_BUCKET


def tokenize_shard(
    images: pa.Table,
    scores: pa.Table | None,
    *,
    target: int,
    codec: Codec,
    text: TextEncoder,
    config: Tokenize,
    profile: Profile | None = None,
) -> Tokenized:
    """Tokenise the images of a shard at one target resolution.

    Every row of ``images`` comes back once: in ``tokens``, or in ``failures`` with the reason.

    Args:
        images: the kept rows of ``schema.IMAGES``; ``samples.COLUMNS`` are read, as far as they are there.
        scores: rows of ``schema.SCORES`` with any of quality, aesthetic and clip; None if not scored.
        target: resolution; see ``buckets.bucket_sizes``.
        codec: turns images into codes of ``profile``.
        text: turns prompts into ids of ``profile``.
        config: which codec, how to crop, what prompts say, in what batches, and what is refused.
        profile: ids of the tokens; by default those of ``config.codec``, with ``config.text_vocab`` ids
            for text. Give it where a tokenizer of the user's has ids of its own.

    Raises:
        ValueError: ``target`` is no multiple of 32, or the codec gives codes that the profile lacks.
    """
    if profile is None:
        profile = profile_of(config.codec, None if config.text else config.text_vocab)
    bucket_sizes(target)  # refuses a target that is none
    planned, reasons = _plan(images, target, config)
    framed, broken = _framed(planned, codec, config, profile)
    rows: list[dict[str, Any]] = []
    sequences: list[NDArray[np.int32]] = []
    for one in sorted(planned, key=lambda one: (one.bucket, one.sample.key)):
        sample = one.sample
        if sample.key in broken:
            number, reason = broken[sample.key]
            reasons.append((sample.key, f"{_name(sample, number)}: {reason}"))
            continue
        try:
            frames = [framed.pop((sample.key, number)) for number in range(len(one.plans))]
            encoded = encode(one.turns, frames, text.encode, profile)
        except ValueError as error:
            reasons.append((sample.key, f"{_words(sample)}: {error}"))
            continue
        if fault := length_fault(len(encoded.input_ids), config):
            reasons.append((sample.key, fault))
            continue
        sequences.append(encoded.input_ids)
        rows.append(_row(one, encoded, target))
    return Tokenized(_table(rows, sequences, scores), _failure_table(reasons))


def _framed(
    planned: list[_Planned], codec: Codec, config: Tokenize, profile: Profile
) -> tuple[dict[tuple[str, int], NDArray[np.int32]], dict[str, tuple[int, str]]]:
    """Token ids of each image, by key and number. Beside it, the first broken image of a sample, and why."""
    framed: dict[tuple[str, int], NDArray[np.int32]] = {}
    broken: dict[str, tuple[int, str]] = {}
    threads, begin = getattr(codec, "feeders", THREADS), getattr(codec, "begin", partial(_at_once, codec))

    def take(bucket: Size, jobs: list[_Job], wait: Wait) -> None:
        for job, ids in zip(jobs, _frames(wait(), bucket, profile), strict=True):
            framed[job.key, job.number] = ids

    before: Callable[[], None] | None = None
    for bucket, batch, pixels in _ahead(_jobs(planned, config), config.batch, threads):
        good = []
        for job, pixel in zip(batch, pixels, strict=True):
            if isinstance(pixel, str):
                broken[job.key] = min((job.number, pixel), broken.get(job.key, (job.number, pixel)))
            else:
                good.append((job, pixel))
        if not good:
            continue
        wait = begin(np.stack([pixel for _, pixel in good]))
        if before:  # only now, so that a GPU always has the next batch
            before()
        before = partial(take, bucket, [job for job, _ in good], wait)
    if before:
        before()
    return framed, broken


def _at_once(codec: Codec, images: NDArray[np.uint8]) -> Wait:
    codes = codec.encode(images)
    return lambda: codes


def _plan(images: pa.Table, target: int, config: Tokenize) -> tuple[list[_Planned], list[tuple[str, str]]]:
    """Plan all images' crops by their headers, and note faulty rows."""
    templates = templates_of(config.prompts)
    planned, failures = [], []
    for row in images.select([name for name in COLUMNS if name in images.column_names]).to_pylist():
        try:
            sample = sample_of(row)
            planned.append(_plan_sample(sample, target, config, templates))
        except ValueError as error:
            failures.append((row["key"], str(error)))
    return planned, failures


def _plan_sample(
    sample: TokenizeSample, target: int, config: Tokenize, templates: Mapping[str, Template]
) -> _Planned:
    """Plan one sample; ValueError with the whole reason where that cannot be."""
    sizes = []
    for number, data in enumerate(sample.images):
        try:
            sizes.append(_size(data, config.exif))
        except Exception as error:  # Pillow raises many kinds on broken files
            raise ValueError(f"{_name(sample, number)}: {_message(error)}") from None
    template = "" if _words(sample) == "turns" or names_size(sample.key, config) else ANY_SIZE
    try:
        asked = asks(turns_of(sample, sizes, templates), len(sizes))
        plans = plan_images(sample, sizes, asked, target, config, lambda n: crop_seed(sample.key, config, n))
        turns = turns_of(sample, [plan.bucket for plan in plans], templates, template)
    except ValueError as error:
        raise ValueError(f"{_words(sample)}: {error}") from None
    for number, (size, plan) in enumerate(zip(sizes, plans, strict=True)):
        if fault := image_fault(size, plan, config):
            raise ValueError(f"{_name(sample, number)}: {fault}")
    return _Planned(sample, plans, turns)


def _jobs(planned: Sequence[_Planned], config: Tokenize) -> dict[Size, list[_Job]]:
    """Return all samples' images by bucket, each in key order."""
    jobs: dict[Size, list[_Job]] = defaultdict(list)
    for one in planned:
        for number, (data, plan) in enumerate(zip(one.sample.images, one.plans, strict=True)):
            jobs[plan.bucket].append(_Job(one.sample.key, number, data, plan, config))
    for batch in jobs.values():
        batch.sort(key=lambda job: (job.key, job.number))
    return dict(sorted(jobs.items(), key=lambda item: bucket_name(*item[0])))


def _name(sample: TokenizeSample, number: int) -> str:
    return "image" if len(sample.images) == 1 else f"image {number + 1} of {len(sample.images)}"


def _words(sample: TokenizeSample) -> str:
    return "turns" if sample.content or sample.task != T2I else "caption"


def _ahead(
    jobs: dict[Size, list[_Job]], size: int, threads: int
) -> Iterator[tuple[Size, list[_Job], list[NDArray[np.uint8] | str]]]:
    """Yield batches of up to ``size`` jobs with pixels, prepared by threads."""
    batches = [
        (bucket, todo[start : start + size])
        for bucket, todo in jobs.items()
        for start in range(0, len(todo), size)
    ]
    with ThreadPoolExecutor(threads) as pool:
        pending: list[list[Future[NDArray[np.uint8] | str]]] = []
        for number, (bucket, batch) in enumerate(batches):
            for _, following in batches[number + len(pending) : number + 2]:
                pending.append([pool.submit(_pixels, job) for job in following])
            yield bucket, batch, [future.result() for future in pending.pop(0)]


def _pixels(job: _Job) -> NDArray[np.uint8] | str:
    """Return the cropped image, uint8 [h, w, 3], or why there is none."""
    try:
        with Image.open(io.BytesIO(job.data)) as image:
            return np.asarray(crop_as_planned(image, job.plan, job.config))
    except Exception as error:  # Pillow raises many kinds on broken files
        return _message(error)


def _size(data: bytes, exif: bool) -> Size:
    """Return (width, height) in pixels from the image's header alone; ``exif``: as it is to be seen."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        turned = exif and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _message(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow reads"  # its own message holds a memory address
    return one_line(error)


def _frames(codes: NDArray[np.int32], bucket: Size, profile: Profile) -> NDArray[np.int32]:
    width, height = bucket
    shape = (height // profile.downsample, width // profile.downsample)
    if codes.shape[1:] != shape:
        raise ValueError(
            f"the codec gives codes of the shape {list(codes.shape[1:])} for {width} x {height} pixels, "
            f"where {profile.name} has {list(shape)}"
        )
    return frame_batch(codes, profile)


def _row(one: _Planned, encoded: Encoded, target: int) -> dict[str, Any]:
    width, height = one.size
    return {
        "target": target,
        "bucket": one.bucket,
        "key": one.sample.key,
        "width": width,
        "height": height,
        "task": one.sample.task,
        "loss_spans": encoded.loss_spans.ravel().tolist(),
        "n_tokens": len(encoded.input_ids),
        "caption": one.sample.caption,
    }


def _table(
    rows: list[dict[str, Any]], sequences: list[NDArray[np.int32]], scores: pa.Table | None
) -> pa.Table:
    by_key: dict[str, dict[str, float | None]] = {}
    if scores is not None:
        names = [name for name in SCORES if name in scores.column_names]
        by_key = {row["key"]: row for row in scores.select(["key", *names]).to_pylist()}
    for row in rows:
        found = by_key.get(row["key"], {})
        row.update({name: found.get(name) for name in SCORES})

    ids = TOKENS.field("input_ids").type
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    values = np.concatenate(sequences) if sequences else np.empty(0, np.int32)
    column = pa.LargeListArray.from_arrays(offsets, pa.array(values)).cast(ids)
    others = [field for field in TOKENS if field.name != "input_ids"]
    table = pa.Table.from_pylist(rows, pa.schema(others))
    return table.add_column(TOKENS.get_field_index("input_ids"), TOKENS.field("input_ids"), column)


def _failure_table(failures: list[tuple[str, str]]) -> pa.Table:
    rows = [{"key": key, "reason": reason} for key, reason in sorted(failures)]
    return pa.Table.from_pylist(rows, FAILURES)
