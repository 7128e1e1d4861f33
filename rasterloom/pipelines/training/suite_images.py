"""Images of a suite's prompts, and what holds in them."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rasterloom.filtering.scenes.judge import SKILLS, Verdict, judge
from rasterloom.filtering.scenes.suite import scene_prompts
from rasterloom.recipe.suites import SceneSuite, taken
from rasterloom.storage.layout import SUITE
from rasterloom.utils.intervals import wilson

ALL = "all"  # skills together


@dataclass(frozen=True)
class JudgedImage:
    """An image of a suite's prompt, and its verdict."""

    prompt: str
    seed: int
    image: Image.Image
    verdict: Verdict


def prompts_of(suite: SceneSuite) -> list[str]:
    """The prompts of a suite, up to its limit."""
    return taken(scene_prompts(), suite.limit)


def judged(prompts: Sequence[str], seed: int, images: Sequence[Image.Image]) -> list[JudgedImage]:
    """Judge the images of one seed."""
    pairs = zip(prompts, images, strict=True)
    return [JudgedImage(prompt, seed, image, judge(np.asarray(image), prompt)) for prompt, image in pairs]


def skills_of(verdicts: Iterable[Verdict]) -> dict[str, dict[str, Any]]:
    """Count each skill's images, asked and right, with Wilson's interval.

    All skills together come last.
    """
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for verdict in verdicts:
        for skill, holds in {**verdict.facts, ALL: bool(verdict.all_right)}.items():
            asked[skill] += 1
            right[skill] += holds
    found = {}
    for skill in (*SKILLS, ALL):
        if asked[skill]:
            low, high = wilson(right[skill], asked[skill])
            found[skill] = {"right": right[skill], "asked": asked[skill], "low": low, "high": high}
    return found


def best_of(images: Iterable[JudgedImage]) -> dict[str, Any]:
    """Count the prompts of which one image at least is right: the best of as many as there are seeds."""
    right: dict[str, bool] = {}
    for one in images:
        right[one.prompt] = right.get(one.prompt, False) or bool(one.verdict.all_right)
    low, high = wilson(sum(right.values()), len(right))
    return {"right": sum(right.values()), "asked": len(right), "low": low, "high": high}


def write_suite(folder: Path, images: Sequence[JudgedImage]) -> dict[str, Any]:
    """Write a table of judged images; return the suite's figures."""
    rows = [
        {
            "prompt": one.prompt,
            "seed": one.seed,
            "image": _png(one.image),
            "facts": list(one.verdict.facts.items()),
            "all_right": one.verdict.all_right,
            "seen": ", ".join(map(str, one.verdict.seen)),
        }
        for one in images
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / SUITE)
    return {
        "name": "scenes",
        "prompts": len({one.prompt for one in images}),
        "seeds": len({one.seed for one in images}),
        "skills": skills_of(one.verdict for one in images),
        "best": best_of(images),
    }


SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("image", pa.binary()),
        ("facts", pa.map_(pa.string(), pa.bool_())),
        ("all_right", pa.bool_()),
        ("seen", pa.string()),
    ]
)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
