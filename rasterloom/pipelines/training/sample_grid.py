"""Images sampled from a checkpoint, their grid and their checks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rasterloom.pipelines.training import best_images, sample_checks
from rasterloom.pipelines.training.suite_images import ALL, JudgedImage, judged, prompts_of, write_suite
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.report.contact_sheet import Row, contact_sheet
from rasterloom.schema import Profile, bucket_name
from rasterloom.storage.layout import GRID, SAMPLES_JSON
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import TextEncoder
from rasterloom.tokenize.unirep import unframe
from rasterloom.utils.json_files import to_json

if TYPE_CHECKING:
    from rasterloom.train.sampling.sampler import Sampler

REAL_IMAGES = 100  # of each bucket, to tell how much real images break between rows


@dataclass(frozen=True)
class ImageRequest:
    """Request for one image."""

    prompt: str
    width: int
    height: int


def default_sizes(target: int) -> tuple[tuple[int, int], ...]:
    """A square, a wide and a tall bucket of a target. They are (width, height) in pixels."""

    sizes = bucket_sizes(target)
    wide = min(sizes, key=lambda wh: abs(wh[0] / wh[1] - 5 / 3))
    return (target, target), wide, (wide[1], wide[0])


def image_requests(config: SamplingConfig, sizes: Sequence[tuple[int, int]]) -> list[ImageRequest]:
    """Requests of a config: every prompt at every size."""
    return [ImageRequest(prompt, w, h) for prompt in config.prompts for w, h in sizes]


def draw(
    sampler: "Sampler",
    text: TextEncoder,
    codec: Codec,
    asked: Sequence[ImageRequest],
    config: SamplingConfig,
    tokenize: Tokenize,
) -> list[Image.Image]:
    """Generate images, of each request the best of several if so configured.

    The prompts are as ``tokenize`` has those that are trained on.
    """
    best_of = config.best_of
    repeated = [a for a in asked for _ in range(best_of.n if best_of else 1)]
    prompts = [
        encode_prompt(
            [("human", t2i_prompt(a.width, a.height, a.prompt, tokenize))], [], text.encode, sampler.profile
        ).tolist()
        for a in repeated
    ]
    codes = sampler.sample(
        prompts,
        [(a.width, a.height) for a in repeated],
        cfg=config.cfg,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
    )
    images = [Image.fromarray(codec.decode(one[None])[0]) for one in codes]
    if best_of is None:
        return images
    judge = best_images.judge_of(best_of)
    return [best.image for best in best_images.best_of_each(images, [a.prompt for a in asked], judge)]


def draw_suite(
    sampler: "Sampler", text: TextEncoder, codec: Codec, config: SamplingConfig, tokenize: Tokenize
) -> list[JudgedImage]:
    """Generate and judge a suite's images, seed by seed, without a choice."""
    suite = config.suite
    if suite is None:
        return []
    prompts = prompts_of(suite)
    asked = [ImageRequest(prompt, *suite.size) for prompt in prompts]
    found: list[JudgedImage] = []
    for seed in range(config.seed, config.seed + suite.seeds):
        settings = config.model_copy(update={"seed": seed, "best_of": None})
        images = draw(sampler, text, codec, asked, settings, tokenize)
        found += judged(prompts, seed, images)
    return found


def write_samples(
    folder: Path,
    asked: Sequence[ImageRequest],
    images: Sequence[Image.Image],
    real: dict[str, list[Image.Image]],
    config: SamplingConfig,
    downsample: int,
    of_suite: Sequence[JudgedImage] = (),
) -> dict[str, int]:
    """Write images, grid, suite and ``samples.json``; return the checks' counts.

    Args:
        real: images of the corpus through the codec, by bucket, to compare with.
    """
    shown = list(zip(asked, images, strict=True))
    entries = []
    for number, (a, image) in enumerate(shown):
        image.save(folder / f"sample-{number:03d}.png")
        entries.append({**asdict(a), "file": f"sample-{number:03d}.png", "seed": config.seed})
    if shown:
        grid([image for _, image in shown], [a.prompt for a, _ in shown]).save(folder / GRID)
    suite = write_suite(folder, of_suite) if of_suite else None
    lines = _check_rows(shown, real, downsample)
    page = {
        "grid": GRID if shown else None,
        "images": entries,
        "suite": suite,
        "rows_line_up": lines,
        "cfg": config.cfg,
        "temperature": config.temperature,
        "top_k": config.top_k,
        **best_images.settings_of(config.best_of),
    }
    (folder / SAMPLES_JSON).write_text(to_json(page, indent=1, ensure_ascii=False), encoding="utf-8")
    counts = {"images": len(images) + len(of_suite)}
    if suite:
        of_images, of_prompts = suite["skills"][ALL], suite["best"]
        counts |= {"suite asked": of_images["asked"], "suite right": of_images["right"]}
        counts |= {"suite prompts": of_prompts["asked"], "with one right": of_prompts["right"]}
    if lines:
        counts |= {"rows checked": lines["asked"], "rows line up": lines["right"]}
    return counts


def _check_rows(
    shown: Sequence[tuple[ImageRequest, Image.Image]], real: dict[str, list[Image.Image]], downsample: int
) -> dict[str, Any] | None:
    limits = {
        bucket: sample_checks.lines_up_limit(images, downsample) for bucket, images in real.items() if images
    }
    judged = [
        (sample_checks.row_breaks(image, downsample) <= limits[name], name)
        for a, image in shown
        if (name := bucket_name(a.width, a.height)) in limits
    ]
    if not judged:
        return None
    buckets = {
        name: {"asked": sum(n == name for _, n in judged), "right": sum(ok for ok, n in judged if n == name)}
        for name in sorted(limits)
    }
    return {"asked": len(judged), "right": sum(ok for ok, _ in judged), "limits": limits, "buckets": buckets}


def grid(images: Sequence[Image.Image], captions: Sequence[str], scale: int = 2) -> Image.Image:
    """Lay images out in rows, one a prompt, the prompt above."""
    rows: dict[str, list[Image.Image]] = {}
    for image, caption in zip(images, captions, strict=True):
        rows.setdefault(caption, []).append(image.resize((image.width * scale, image.height * scale)))
    return contact_sheet([Row((caption,), tuple(row)) for caption, row in rows.items()])


def images_of(codec: Codec, profile: Profile, sequences: Sequence[Sequence[int]]) -> list[Image.Image]:
    """Decode the image of each token sequence, if it has just one."""
    ends = (np.flatnonzero(np.asarray(ids) == profile.eoi) for ids in sequences)
    whole = [ids for ids, end in zip(sequences, ends, strict=True) if len(end) == 1]
    return [image_of(codec, profile, ids) for ids in whole]


def image_of(codec: Codec, profile: Profile, ids: Sequence[int]) -> Image.Image:
    """Decode the first image in a token sequence or its part.

    Raises ValueError if there is none.
    """

    array = np.asarray(ids)
    start, end = np.flatnonzero(array == profile.boi), np.flatnonzero(array == profile.eoi)
    if not len(start) or not len(end):
        raise ValueError("the sequence holds no image")
    return Image.fromarray(codec.decode(unframe(array[start[0] : end[0] + 1], profile)[None])[0])
