"""Rows of ``schema.IMAGES`` as samples: images, crops and turns.

A plain pair is a sample of the task t2i with one image. The turns of a conversation are kept word for
word, but for the size that the reference's prompts name: that becomes the bucket's. The turns of other
rows come from the table of ``prompts``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import T2I, in_order
from rasterloom.tokenize.buckets import Size, bucket_sizes
from rasterloom.tokenize.crop import CropPlan, follow_crop, plan_crop
from rasterloom.tokenize.prompt_templates import IMAGE, TEMPLATES, Template, Turn, turns

MULTIVIEW = "multiview"
SAME_ASPECT = 1.02  # images whose aspect ratios differ by less are cropped as one
COLUMNS = ("key", "caption", "image", "task", "turns", "main", "more")

_SIZE = re.compile(r"(?<=of )(?:\d+x\d+|\{width\}x\{height\})(?= according to the following prompt:)")


@dataclass(frozen=True)
class TokenizeSample:
    """A row, before its images are looked at."""

    key: str
    caption: str
    task: str
    # Messages in turn, or the fields of the task's prompt.
    content: tuple[str, ...] | dict[str, str | int | float]
    images: tuple[bytes, ...]  # files, in the order of the placeholders
    main: int = 0  # number of the image that stands for the sample


def sample_of(row: Mapping[str, Any]) -> TokenizeSample:
    """Return the sample of a row of ``COLUMNS``. Columns that an older table lacks count as null.

    Raises:
        ValueError: it lacks what its task needs.
    """
    task, content, main = row.get("task") or T2I, row.get("turns"), row.get("main") or 0
    images = in_order(row["image"] or None, main, [one["image"] for one in row.get("more") or ()])
    if content is None and not images:
        raise ValueError("image: the row has none")
    if content is None and not row["caption"]:
        raise ValueError("caption: the row has none")
    found = json.loads(content) if content is not None else {}
    messages = tuple(turn["value"] for turn in found) if isinstance(found, list) else found
    return TokenizeSample(row["key"], row["caption"] or "", task, messages, tuple(images), main)


def turns_of(
    sample: TokenizeSample,
    sizes: Sequence[Size],
    templates: Mapping[str, Template] = TEMPLATES,
    template: str = "",
) -> list[Turn]:
    """Return the turns, with image sizes where a prompt names one.

    Args:
        sizes: (width, height) of each image in pixels.
        template: name of the one to take instead of the task's.

    Raises:
        ValueError: no such task, a field of its prompt is not there, or placeholders and images differ
            in number.
    """
    width, height = sizes[sample.main] if sizes else (0, 0)
    if isinstance(sample.content, dict):
        fields = {**sample.content, "caption": sample.caption, "width": width, "height": height}
        messages = turns(template or sample.task, templates, **fields)
    else:
        messages = [("gpt" if n % 2 else "human", message) for n, message in enumerate(sample.content)]
    counts = _placeholders(messages, len(sizes))
    if sum(counts) != len(sizes):
        raise ValueError(
            f"the messages hold {sum(counts)} {IMAGE}, but the row has "
            f"{len(sizes) or 'no'} image{'s' if len(sizes) != 1 else ''}"
        )
    if isinstance(sample.content, dict):
        return messages
    done = []
    for n, (role, message) in enumerate(messages):
        if n % 2 == 0 and _SIZE.search(message):
            answer = sum(counts[: n + 1])  # number of the first image of the answer
            size = sizes[answer] if n + 1 < len(counts) and counts[n + 1] else (width, height)
            message = _SIZE.sub("{}x{}".format(*size), message) if sizes else message
        done.append((role, message))
    return done


def asks(messages: Sequence[Turn], images: int) -> list[bool]:
    """Return for each image, in order, whether it stands in a question."""
    counts = _placeholders(messages, images)
    return [n % 2 == 0 for n, count in enumerate(counts) for _ in range(count)]


def _placeholders(messages: Sequence[Turn], images: int) -> list[int]:
    """Return the number of images in each message. Without placeholders all are in the first."""
    counts = [message.count(IMAGE) for _, message in messages]
    return counts if any(counts) else [images, *counts[1:]]


def plan_images(
    sample: TokenizeSample,
    sizes: Sequence[Size],
    asked: Sequence[bool],
    target: int,
    config: Tokenize,
    seed_of: Callable[[int], int | None],
) -> list[CropPlan]:
    """Return the crop of each image of a sample.

    Images of one target and nearly one aspect are cropped as one, so that an edited image or a depth map
    lies on its original pixel by pixel. The image that stands for the sample leads. Views of an object
    are squares of ``config.view_side``.

    Args:
        sizes: (width, height) of each image.
        config: ``shared_crop`` false gives each image a crop of its own.
        asked: whether it stands in a question, where ``config.prompt_target`` may bound its target.
        seed_of: seed of the crop of an image by its number, None for the middle.
    """
    views = sample.task == MULTIVIEW
    side = min(target, config.view_side)
    leaders: list[tuple[int, Size, CropPlan]] = []
    plans: dict[int, CropPlan] = {}
    for number in sorted(range(len(sizes)), key=lambda n: (n != sample.main, n)):
        own = min(target, config.prompt_target or target) if asked[number] else target
        buckets = [(side, side)] if views and not asked[number] else bucket_sizes(own)
        for led, size, plan in leaders:
            if config.shared_crop and led == own and _alike(size, sizes[number]) and plan.bucket in buckets:
                plans[number] = follow_crop(sizes[number], plan)
                break
        else:
            plans[number] = plan_crop(sizes[number], buckets, seed=seed_of(number))
            leaders.append((own, sizes[number], plans[number]))
    return [plans[number] for number in range(len(sizes))]


def _alike(a: Size, b: Size) -> bool:
    return abs(math.log(a[0] * b[1] / (a[1] * b[0]))) < math.log(SAME_ASPECT)


def text_of(row: Mapping[str, Any]) -> str:
    """Return what a text vocabulary learns of a row: its caption, or a whole conversation."""
    found = json.loads(row["turns"]) if row.get("turns") else {}
    if isinstance(found, list):
        return "\n".join(turn["value"].replace(IMAGE, "").strip() for turn in found)
    values = [row["caption"] or "", *(value for value in found.values() if isinstance(value, str))]
    return "\n".join(dict.fromkeys(value for value in values if value))
