"""Metrics of checkpoints on held-out rows and images."""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.distances import frechet
from rasterloom.filtering.scorers.clip import DEFAULT_CLIP, Clip, open_clip
from rasterloom.pipelines.models.image_metrics import Pixels, ssim
from rasterloom.pipelines.models.load import (
    ModelChoice,
    TextCodec,
    TrainedModel,
    codec_or_none,
    load_model,
    text_codec_of,
)
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import FileStep, HasResult, StepContext
from rasterloom.pipelines.training.sample_grid import image_of
from rasterloom.pipelines.training.stage_step import worker_takes
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import file_folder, inputs_of, local_folder, output_files
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.report.gallery import read_rows
from rasterloom.report.queries import Tables
from rasterloom.report.reconstructions import psnr
from rasterloom.schema import T2I, StepKind
from rasterloom.storage.layout import EVALUATION, INDEX_HTML
from rasterloom.storage.parquet_io import read_files
from rasterloom.tokenize.buckets import Size
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.cropping import crop_as_coded
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.train.data.token_dataset import TokenRows, open_rows
from rasterloom.utils.json_files import to_json
from rasterloom.versions.corpus import Corpus

if TYPE_CHECKING:
    from rasterloom.train.sampling.sampler import Sampler

BATCH_TOKENS = 16_384  # through a model at once


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of one target."""

    target: int
    rows: TokenRows
    numbers: NDArray[np.int64]  # row numbers [n]
    images: list["EvaluatedImage"]


@dataclass(frozen=True)
class EvaluatedImage:
    """Held-out image with the caption and the size to generate it from."""

    caption: str
    size: tuple[int, int]  # width, height in pixels
    original: Pixels  # as it was cropped for the codec
    decoded: Pixels  # from its codes


@dataclass(frozen=True)
class CodecQuality:
    """Mean reconstruction quality of the held-out images."""

    psnr: float
    ssim: float
    pictures: int


@dataclass(frozen=True)
class CheckpointMetrics:
    """Metrics of one checkpoint."""

    name: str
    heldout: dict[str, Any]  # train.groups.Groups.losses
    clip: float | None  # mean cosine of generated images and their captions
    clip_fd: float | None  # Fréchet distance of CLIP's embeddings, generated to held-out images


@dataclass(frozen=True)
class Evaluation:
    """Checkpoints side by side."""

    target: int
    codec: CodecQuality | None
    clip_of_heldout: float | None  # the same cosine of the held-out images themselves
    drawn: int  # images of each checkpoint
    clip_dimensions: int | None
    checkpoints: tuple[CheckpointMetrics, ...]
    notes: tuple[str, ...]  # missing metrics, with the reason


@dataclass(frozen=True)
class EvaluationRequest:
    """Checkpoints to measure, and the settings of a measurement."""

    choices: tuple[ModelChoice, ...]
    target: int | None = None  # resolution; None: the last checkpoint's
    images: int = 64  # held-out images for codec and CLIP
    clip: str | None = None  # folder of a CLIP; None: that of the recipe's score ``clip``


@dataclass(frozen=True)
class _Tools:
    """Everything that the measurement of a checkpoint takes beside the checkpoint."""

    workflow: Workflow
    text_codec: TextCodec
    codec: Codec | None
    progress: Progress


def measure(
    workflow: Workflow, request: EvaluationRequest, progress: Progress
) -> tuple[list[TrainedModel], Evaluation]:
    """Measure checkpoints on the same held-out rows.

    Raises:
        RecipeError: a checkpoint cannot be read or does not fit the corpus, or no rows are held out.
    """
    clip = clip_of(workflow.recipe, request.clip)
    text_codec = text_codec_of(workflow)
    models = [load_model(workflow, choice, text_codec) for choice in request.choices]
    tools = _Tools(workflow, text_codec, codec_or_none(workflow.recipe), progress)
    held = _held_out(tools, request.target or models[-1].target, request.images)
    return models, _evaluate(tools, models, held, clip)


def _held_out(tools: _Tools, target: int, most: int) -> HeldOut:
    """Find a target's held-out rows, and ``most`` of their images."""
    recipe, corpus = tools.workflow.recipe, tools.workflow.corpus
    steps = {step.name: step for step in tools.workflow.corpus_steps}
    tokens, lengths = steps.get(StepKind.TOKENS.step(target)), steps.get(StepKind.LENGTHS.step(target))
    if tokens is None or lengths is None or not tools.workflow.status(lengths).done:
        raise RecipeError(f"there are no tokens of target {target} yet", needs="lengths")
    store, names = corpus.store, [file.name for file in output_files(corpus, tokens)]
    (index,) = output_files(corpus, lengths)
    rows = open_rows(
        [store.path(name) for name in names],
        store.filesystem if store.is_s3 else None,
        store.path(index.name),
    )
    share = recipe.train.heldout if recipe.train else 0.0
    assert rows.heldout is not None
    numbers = np.flatnonzero(rows.heldout < share)
    if not len(numbers):
        raise RecipeError(f"nothing is held out of target {target}: {_way_out(rows.heldout, share)}")
    first = numbers[np.argsort(rows.heldout[numbers], kind="stable")]
    tasks = np.array(rows.task_names)[rows.task_numbers[first]]
    keys = [rows.keys[int(number)].as_py() for number in first[tasks == T2I][:most]]
    if not keys or tools.codec is None:
        return HeldOut(target, rows, numbers, [])
    columns = ["key", "width", "height", "caption", "input_ids"]
    found = read_files(store, names, pc.field("key").isin(keys), columns).to_pylist()
    by_key = {row["key"]: row for row in found}
    coded = {key: by_key[key] for key in keys}
    return HeldOut(target, rows, numbers, _images(tools, corpus, target, coded))


def _way_out(draws: NDArray[np.float64], share: float) -> str:
    """Name a share of held-out images that would hold one out."""
    if not len(draws):
        return "it has no rows"
    enough = math.floor(float(draws.min()) * 100 + 1) / 100
    of = f"the {len(draws):,} image{'' if len(draws) == 1 else 's'}"
    return f"a train.heldout of {share:g} takes none of {of}, {enough:g} would take one and train anew"


def _images(
    tools: _Tools, corpus: Corpus, target: int, coded: dict[str, dict[str, Any]]
) -> list[EvaluatedImage]:
    """Images of token rows still in the corpus, cropped and decoded."""
    config, snapshot = tools.workflow.recipe.tokenize, corpus.snapshot_id("images")
    assert tools.codec is not None
    images = []
    with Tables(corpus, {"images": snapshot} if snapshot is not None else {}) as tables:
        for stored in read_rows(tables, "images", list(coded), ["image"]) if tables.has("images") else ():
            row = coded[stored["key"]]
            size = row["width"], row["height"]
            original, bucket = _as_coded(stored["image"], stored["key"], config, target)
            decoded = np.asarray(image_of(tools.codec, tools.text_codec.profile, row["input_ids"]))
            if bucket == size:  # else the image was fetched again since
                images.append(EvaluatedImage(row["caption"] or "", size, original, decoded))
    return images


def _as_coded(data: bytes, key: str, config: Tokenize, target: int) -> tuple[Pixels, Size]:
    """A stored image as cropped for the codec, and its bucket."""
    with Image.open(io.BytesIO(data)) as image:
        crop, plan = crop_as_coded(image, key, 0, config, target)
    return np.asarray(crop), plan.bucket


def _evaluate(tools: _Tools, models: Sequence[TrainedModel], held: HeldOut, clip: Clip | None) -> Evaluation:
    reference, notes = _reference(tools.codec, clip, held.images)
    found = []
    for model in models:
        losses, generated = _of_model(tools, model, held, generates=reference is not None)
        score, distance = reference.measure(generated) if reference else (None, None)
        found.append(CheckpointMetrics(model.label, losses, score, distance))
    return Evaluation(
        target=held.target,
        codec=_codec_quality(held.images) if held.images else None,
        clip_of_heldout=_cosine(reference.images, reference.captions) if reference else None,
        drawn=len(held.images) if reference else 0,
        clip_dimensions=reference.images.shape[1] if reference else None,
        checkpoints=tuple(found),
        notes=tuple(notes),
    )


def _reference(
    codec: Codec | None, clip: Clip | None, images: Sequence[EvaluatedImage]
) -> tuple["_Reference | None", list[str]]:
    """CLIP's view of the held-out images, if any, and notes."""
    if codec is None:
        return None, ["The codec has no decoder: no images are generated, and its quality is not measured."]
    if clip is None:
        return None, ["No CLIP weights: CLIP score and CLIP-FD take a CLIP, or the recipe's score clip."]
    if len(images) < 2:
        return None, []
    try:
        reference = _Reference(clip, images)
    except ValueError as error:  # its weights are loaded now
        raise RecipeError(str(error)) from None
    n, d = reference.images.shape
    if n >= d:
        return reference, []
    return reference, [
        f"CLIP-FD is of {n} images in {d} dimensions: too large as an absolute figure, good to compare "
        "checkpoints in this table."
    ]


class _Reference:
    """CLIP embeddings [n, d] of the held-out images and their captions."""

    def __init__(self, clip: Clip, images: Sequence[EvaluatedImage]) -> None:
        self.clip = clip
        self.images = clip.embed_images([image.original for image in images])
        self.captions = clip.embed_captions([image.caption for image in images])

    def measure(self, generated: list[Pixels]) -> tuple[float, float]:
        """CLIP score and CLIP-FD of images generated from the captions."""
        embedded = self.clip.embed_images(generated)
        return _cosine(embedded, self.captions), round(frechet(embedded, self.images), 5)


def _codec_quality(images: Sequence[EvaluatedImage]) -> CodecQuality:
    pairs = [(image.original, image.decoded) for image in images]
    return CodecQuality(
        psnr=round(float(np.mean([psnr(*pair) for pair in pairs])), 4),
        ssim=round(float(np.mean([ssim(*pair) for pair in pairs])), 4),
        pictures=len(pairs),
    )


def _cosine(images: NDArray[np.floating], captions: NDArray[np.floating]) -> float:
    """Mean cosine of images and their captions, without images that have none."""
    return round(float(np.nanmean((images.astype(np.float64) * captions).sum(axis=1))), 5)


def _of_model(
    tools: _Tools, model: TrainedModel, held: HeldOut, *, generates: bool
) -> tuple[dict[str, Any], list[Pixels]]:
    """Held-out losses of a model, and images if it ``generates``."""
    from rasterloom.train.model.packed_lm import PackedLM  # heavy
    from rasterloom.train.model.threads import torch_threads  # heavy
    from rasterloom.train.monitoring.heldout import evaluate as losses_of  # heavy
    from rasterloom.train.sampling.sampler import open_sampler  # heavy

    run = tools.workflow.recipe.run
    gpu = run.use_gpu
    try:
        sampler = open_sampler(model.model, tools.text_codec.profile, "cuda" if gpu else "cpu", bf16=gpu)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    with torch_threads(worker_takes(model.step, run).threads):
        images = _generate(tools, model.label, sampler, held.images) if generates else []
        tools.progress.step_started(f"loss {model.label}", None)
        lm = PackedLM(sampler.model)
        return losses_of(lm, held.rows, held.numbers, BATCH_TOKENS, sampler.device), images


def _generate(tools: _Tools, label: str, sampler: "Sampler", images: list[EvaluatedImage]) -> list[Pixels]:
    recipe = tools.workflow.recipe
    profile, config = tools.text_codec.profile, recipe.sample
    asked = [[("human", t2i_prompt(*image.size, image.caption, recipe.tokenize))] for image in images]
    ids = [encode_prompt(turns, [], tools.text_codec.text.encode, profile).tolist() for turns in asked]
    sizes = [image.size for image in images]
    tools.progress.step_started(
        f"images {label}", sum(w * h for w, h in sizes) // profile.downsample**2, "tokens"
    )
    codes = sampler.sample(
        ids,
        sizes,
        cfg=config.cfg,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
        on_tokens=tools.progress.advanced,
    )
    assert tools.codec is not None
    return [tools.codec.decode(one[None])[0] for one in codes]


def clip_of(recipe: Recipe, checkpoint: str | None) -> Clip | None:
    """Open the CLIP of a folder, or by default the recipe's. Returns None if there is none.

    Raises:
        RecipeError: there is no such folder.
    """
    if checkpoint is None:
        options = next((score.options for score in recipe.score if score.name == "clip"), None)
        if options is None:
            return None
        return open_clip(str(options.get("clip", DEFAULT_CLIP)), options.get("revision"))
    if not Path(checkpoint).is_dir():
        message = "no such folder; it takes a checkpoint of transformers' CLIP"
        raise RecipeError(message, field="clip", value=checkpoint)
    return open_clip(checkpoint, None)


def keep(workflow: Workflow, checkpoints: Sequence[TrainedModel], evaluation: Evaluation) -> str | None:
    """Save metrics beside final models and update the report. Returns the report's path, if any."""
    corpus = workflow.corpus
    for trained, figures in zip(checkpoints, evaluation.checkpoints, strict=True):
        if trained.step is None or trained.at is not None or trained.is_average:
            continue
        text = to_json(asdict(evaluation) | {"checkpoints": [asdict(figures)]}, indent=1)
        corpus.store.put(f"{file_folder(corpus, trained.step)}/{EVALUATION}", text.encode())
        (local_folder(corpus, trained.step) / EVALUATION).write_text(text)
    report = workflow.step(StepKind.REPORT)
    return _write_again(workflow.recipe, corpus, report) if workflow.status(report).done else None


def _write_again(recipe: Recipe, corpus: Corpus, report: HasResult) -> str:
    assert isinstance(report, FileStep)
    folder = local_folder(corpus, report)
    quiet = Progress(Console(quiet=True))
    report.make(StepContext(corpus, inputs_of(corpus, report), report, folder, recipe.run, quiet))
    place = file_folder(corpus, report)
    for path in folder.iterdir() if corpus.store.is_s3 else ():
        corpus.store.put(f"{place}/{path.name}", path.read_bytes())
    return corpus.store.path(f"{place}/{INDEX_HTML}")
