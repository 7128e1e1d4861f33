"""One shard of kept images, with their captions, to rows of the ``tokens`` table.

Pictures are decoded and cropped in threads, one batch ahead of the codec. A batch holds one bucket, so
all its pictures have one shape. A row that cannot be tokenised is told apart, with its reason.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from rasterloom.recipe import Tokenize
from rasterloom.schema import TOKENS, Profile, bucket_name
from rasterloom.tokenize.buckets import Size, bucket_sizes
from rasterloom.tokenize.codecs import Codec
from rasterloom.tokenize.conversation import Encoded, encode
from rasterloom.tokenize.crop import CropPlan, apply_crop, plan_crop
from rasterloom.tokenize.limits import crop_seed, length_fault, names_size, picture_fault
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.prompts import turns
from rasterloom.tokenize.text import TextEncoder
from rasterloom.tokenize.unirep import frame_batch

TASK = "t2i"
THREADS = 2  # that decode and crop; more only compete with the codec
SCORES = ("quality", "aesthetic", "clip")

FAILURES = pa.schema([("key", pa.string()), ("reason", pa.string())])

_EXIF_ORIENTATION = 0x0112


class Tokenized(NamedTuple):
    tokens: pa.Table  # schema.TOKENS, by bucket, then key
    failures: pa.Table  # FAILURES, by key


@dataclass(frozen=True)
class _Job:
    key: str
    caption: str
    data: bytes
    plan: CropPlan
    exif: bool  # turn the picture as it says
    names_size: bool  # in the prompt


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
        images: the kept rows of ``schema.IMAGES``; ``key``, ``caption`` and ``image`` are read.
        scores: rows of ``schema.SCORES`` with any of quality, aesthetic and clip; None if not scored.
        target: resolution; see ``buckets.bucket_sizes``.
        codec: turns pictures into codes of ``profile``.
        text: turns prompts into ids of ``profile``.
        config: which codec, how to crop, in what batches, and what is refused.
        profile: ids of the tokens; by default those of ``config.codec``, with ``config.text_vocab`` ids
            for text. Give it where a tokenizer of the user's has ids of its own.

    Raises:
        ValueError: ``target`` is no multiple of 32, or the codec gives codes that the profile lacks.
    """
    if profile is None:
        profile = profile_of(config.codec, None if config.text else config.text_vocab)
    jobs, failures = _plan(images, bucket_sizes(target), config)
    rows: list[dict[str, Any]] = []
    sequences: list[NDArray[np.int32]] = []
    for bucket, batch, pixels in _ahead(jobs, config.batch):
        good = []
        for job, pixel in zip(batch, pixels, strict=True):
            if isinstance(pixel, str):
                failures.append((job.key, pixel))
            else:
                good.append((job, pixel))
        if not good:
            continue
        codes = codec.encode(np.stack([pixel for _, pixel in good]))
        for (job, _), framed in zip(good, _frames(codes, bucket, profile), strict=True):
            try:
                encoded = _encode(job, framed, text, profile)
            except ValueError as error:
                failures.append((job.key, f"caption: {error}"))
                continue
            if fault := length_fault(len(encoded.input_ids), config):
                failures.append((job.key, fault))
                continue
            sequences.append(encoded.input_ids)
            rows.append(_row(job, encoded, target))
    return Tokenized(_table(rows, sequences, scores), _failure_table(failures))


def _plan(
    images: pa.Table, buckets: Sequence[Size], config: Tokenize
) -> tuple[dict[Size, list[_Job]], list[tuple[str, str]]]:
    """Sort the rows into buckets by what the headers of their images say; note those that cannot be."""
    jobs: dict[Size, list[_Job]] = defaultdict(list)
    failures: list[tuple[str, str]] = []
    columns = (images[name].to_pylist() for name in ("key", "caption", "image"))
    for key, caption, data in zip(*columns, strict=True):
        if not data:
            failures.append((key, "image: the row has none"))
        elif not caption:
            failures.append((key, "caption: the row has none"))
        else:
            try:
                size = _size(data, config.exif)
                plan = plan_crop(size, list(buckets), seed=crop_seed(key, config))
            except Exception as error:  # Pillow raises many kinds on broken files
                failures.append((key, f"image: {_told(error)}"))
                continue
            if fault := picture_fault(size, plan, config):
                failures.append((key, f"image: {fault}"))
            else:
                job = _Job(key, caption, data, plan, config.exif, names_size(key, config))
                jobs[plan.bucket].append(job)
    for batch in jobs.values():
        batch.sort(key=lambda job: job.key)
    return dict(sorted(jobs.items(), key=lambda item: bucket_name(*item[0]))), failures


def _ahead(
    jobs: dict[Size, list[_Job]], size: int
) -> Iterator[tuple[Size, list[_Job], list[NDArray[np.uint8] | str]]]:
    """Yield batches of up to ``size`` jobs with their pixels, while threads prepare the next one."""
    batches = [
        (bucket, todo[start : start + size])
        for bucket, todo in jobs.items()
        for start in range(0, len(todo), size)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        pending: list[list[Future[NDArray[np.uint8] | str]]] = []
        for number, (bucket, batch) in enumerate(batches):
            for _, following in batches[number + len(pending) : number + 2]:
                pending.append([pool.submit(_pixels, job) for job in following])
            yield bucket, batch, [future.result() for future in pending.pop(0)]


def _pixels(job: _Job) -> NDArray[np.uint8] | str:
    """Return the cropped picture, uint8 [h, w, 3], or why there is none."""
    try:
        with Image.open(io.BytesIO(job.data)) as image:
            picture = ImageOps.exif_transpose(image) if job.exif else image
            return np.asarray(apply_crop(picture, job.plan))
    except Exception as error:  # Pillow raises many kinds on broken files
        return f"image: {_told(error)}"


def _size(data: bytes, exif: bool) -> Size:
    """Return (width, height) in pixels from the picture's header alone; ``exif``: as it is to be seen."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        turned = exif and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _told(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that Pillow reads"  # its own message holds a memory address
    return " ".join(str(error).split()) or type(error).__name__


def _frames(codes: NDArray[np.int32], bucket: Size, profile: Profile) -> NDArray[np.int32]:
    width, height = bucket
    shape = (height // profile.downsample, width // profile.downsample)
    if codes.shape[1:] != shape:
        raise ValueError(
            f"the codec gives codes of the shape {list(codes.shape[1:])} for {width} x {height} pixels, "
            f"where {profile.name} has {list(shape)}"
        )
    return frame_batch(codes, profile)


def _encode(job: _Job, framed: NDArray[np.int32], text: TextEncoder, profile: Profile) -> Encoded:
    width, height = job.plan.bucket
    task = TASK if job.names_size else f"{TASK}_any_size"
    conversation = turns(task, width=width, height=height, caption=job.caption)
    return encode(conversation, [framed], text.encode, profile)


def _row(job: _Job, encoded: Encoded, target: int) -> dict[str, Any]:
    width, height = job.plan.bucket
    return {
        "target": target,
        "bucket": bucket_name(width, height),
        "key": job.key,
        "width": width,
        "height": height,
        "task": TASK,
        "loss_spans": encoded.loss_spans.ravel().tolist(),
        "n_tokens": len(encoded.input_ids),
        "caption": job.caption,
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
