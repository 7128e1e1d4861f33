"""`rasterloom evaluate`: what checkpoints are worth, on rows and pictures that were never trained on."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageOps

from rasterloom.errors import RecipeError
from rasterloom.pipelines.models.image_metrics import Pixels, frechet, psnr, ssim
from rasterloom.pipelines.models.load import Language, Trained
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import FileStep, Step
from rasterloom.pipelines.workflow import workflow
from rasterloom.pipelines.workspace.status import file_folder, inputs_of, local_folder, output_files, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import T2I
from rasterloom.storage.parquet_io import read_files
from rasterloom.versions.corpus import Corpus

FILE = "evaluation.json"  # in the folder of a stage
BATCH_TOKENS = 16_384  # through a model at once


@dataclass(frozen=True)
class HeldOut:
    """Rows of one target that no stage was trained on."""

    target: int
    rows: Any  # train.rows.TokenRows
    numbers: Any  # row numbers, int64 [n]
    pictures: list["Picture"]


@dataclass(frozen=True)
class Picture:
    """A held-out picture with what the model would be asked to draw it."""

    caption: str
    size: tuple[int, int]  # width, height in pixels
    original: Pixels  # as it was cropped for the codec
    decoded: Pixels  # what its codes say


@dataclass(frozen=True)
class Codec:
    """What the codec keeps of the held-out pictures, in the mean."""

    psnr: float
    ssim: float
    pictures: int


@dataclass(frozen=True)
class Checkpoint:
    """Figures of one checkpoint."""

    name: str
    heldout: dict[str, Any]  # train.groups.Groups.losses
    clip: float | None  # cosine of CLIP between what is drawn and its caption, in the mean
    clip_fd: float | None  # Fréchet distance of CLIP's embeddings between what is drawn and the held-out


@dataclass(frozen=True)
class Evaluation:
    """Checkpoints side by side."""

    target: int
    codec: Codec | None
    clip_of_heldout: float | None  # the same cosine of the held-out pictures themselves: what to reach for
    drawn: int  # pictures of each checkpoint
    clip_dimensions: int | None
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]  # what is missing, and why


def held_out(recipe: Recipe, target: int, language: Language, codec: Any, most: int) -> HeldOut:
    """Find the rows held out of a target, and up to so many of their pictures.

    Raises:
        RecipeError: there are no tokens of this target, or nothing is held out.
    """
    from rasterloom.train.data.token_dataset import open_rows

    corpus, steps = Corpus.of(recipe), {step.name: step for step in workflow(recipe)}
    tokens, lengths = steps.get(f"tokens/{target}"), steps.get(f"lengths/{target}")
    if tokens is None or lengths is None or not status(corpus, lengths).done:
        raise RecipeError(
            f"there are no tokens of target {target} yet: rasterloom run RECIPE --until lengths"
        )
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
        raise RecipeError(f"nothing is held out of target {target}: train.heldout is {share:g}")
    first = numbers[np.argsort(rows.heldout[numbers], kind="stable")]
    tasks = np.array(rows.task_names)[rows.task_numbers[first]]
    keys = [rows.keys[int(number)].as_py() for number in first[tasks == T2I][:most]]
    pictures = _pictures(recipe, corpus, names, target, keys, language, codec) if codec and keys else []
    return HeldOut(target, rows, numbers, pictures)


def _pictures(
    recipe: Recipe,
    corpus: Corpus,
    token_files: list[str],
    target: int,
    keys: list[str],
    language: Language,
    codec: Any,
) -> list[Picture]:
    """The pictures of some keys that are still in the corpus, as they were cropped and as they were coded."""
    from rasterloom.pipelines.training.sample_grid import image_of
    from rasterloom.report.gallery import read_rows
    from rasterloom.report.queries import Tables
    from rasterloom.tokenize.buckets import bucket_sizes
    from rasterloom.tokenize.crop import apply_crop, plan_crop
    from rasterloom.tokenize.limits import crop_seed

    columns = ["key", "width", "height", "caption", "input_ids"]
    found = read_files(corpus.store, token_files, pc.field("key").isin(keys), columns).to_pylist()
    coded = {row["key"]: row for row in found}
    snapshot = corpus.snapshot_id("images")
    pictures = []
    with Tables(corpus, {"images": snapshot} if snapshot is not None else {}) as tables:
        for stored in read_rows(tables, "images", keys, ["image"]) if tables.has("images") else ():
            row, size = coded[stored["key"]], (coded[stored["key"]]["width"], coded[stored["key"]]["height"])
            with Image.open(io.BytesIO(stored["image"])) as image:
                upright = ImageOps.exif_transpose(image) if recipe.tokenize.exif else image
                seed = crop_seed(stored["key"], recipe.tokenize)
                plan = plan_crop(upright.size, bucket_sizes(target), seed=seed)
                original = np.asarray(apply_crop(upright, plan))
            decoded = np.asarray(image_of(codec, language.profile, row["input_ids"]))
            if plan.bucket == size:  # else the image was fetched again since
                pictures.append(Picture(row["caption"] or "", size, original, decoded))
    return pictures


def evaluate(
    recipe: Recipe,
    checkpoints: Sequence[Trained],
    language: Language,
    codec: Any,
    held: HeldOut,
    clip: Any,
    progress: Progress,
) -> Evaluation:
    """Measure checkpoints on one and the same held-out rows.

    Args:
        codec: None where it has no decoder: then nothing is drawn.
        clip: a `filtering.clip.Clip`, or None: then there are no figures of CLIP.

    Raises:
        RecipeError: a checkpoint cannot be read, or does not fit the corpus.
    """
    pictures, notes = held.pictures, []
    if codec is None:
        notes.append("The codec has no decoder: nothing is drawn, and what it keeps is not measured.")
    elif clip is None:
        notes.append("No CLIP weights: give --clip, or the recipe's score clip, for CLIP score and CLIP-FD.")
    reference = None
    if codec is not None and clip is not None and len(pictures) > 1:
        try:
            reference = _Reference(clip, pictures)
        except ValueError as error:  # its weights are loaded now
            raise RecipeError(str(error)) from None
        n, d = reference.pictures.shape
        if n < d:
            notes.append(
                f"CLIP-FD is of {n} pictures in {d} dimensions: too large as a figure of its own, good to "
                "compare checkpoints in this table."
            )
    found = []
    for trained in checkpoints:
        losses, drawn = _of_model(recipe, trained, language, codec if reference else None, held, progress)
        score, distance = reference.measure(drawn) if reference else (None, None)
        found.append(Checkpoint(trained.label, losses, score, distance))
    return Evaluation(
        target=held.target,
        codec=_codec_figures(pictures) if pictures else None,
        clip_of_heldout=_cosine(reference.pictures, reference.words) if reference else None,
        drawn=len(pictures) if reference else 0,
        clip_dimensions=reference.pictures.shape[1] if reference else None,
        checkpoints=tuple(found),
        notes=tuple(notes),
    )


class _Reference:
    """Held-out pictures and their captions as CLIP sees them: embeddings [n, d]."""

    def __init__(self, clip: Any, pictures: Sequence[Picture]) -> None:
        self.clip = clip
        self.pictures = clip.embed_pictures([picture.original for picture in pictures])
        self.words = clip.embed_captions([picture.caption for picture in pictures])

    def measure(self, drawn: list[Pixels]) -> tuple[float, float]:
        """CLIP score, and CLIP-FD, of what was drawn of the captions."""
        embedded = self.clip.embed_pictures(drawn)
        return _cosine(embedded, self.words), round(frechet(embedded, self.pictures), 5)


def _codec_figures(pictures: Sequence[Picture]) -> Codec:
    pairs = [(picture.original, picture.decoded) for picture in pictures]
    return Codec(
        psnr=round(float(np.mean([psnr(*pair) for pair in pairs])), 4),
        ssim=round(float(np.mean([ssim(*pair) for pair in pairs])), 4),
        pictures=len(pairs),
    )


def _cosine(pictures: Any, words: Any) -> float:
    """Mean cosine of pictures and their captions; a picture without caption is left out."""
    return round(float(np.nanmean((pictures.astype(np.float64) * words).sum(axis=1))), 5)


def _of_model(
    recipe: Recipe, trained: Trained, language: Language, codec: Any, held: HeldOut, progress: Progress
) -> tuple[dict[str, Any], list[Pixels]]:
    """Held-out losses of a checkpoint, and what it draws of the held-out captions if there is a codec."""
    from rasterloom.tokenize.conversation import encode_prompt
    from rasterloom.tokenize.prompt_templates import t2i_prompt
    from rasterloom.train.model.packed_lm import PackedLM
    from rasterloom.train.model.sampler import open_sampler
    from rasterloom.train.monitoring.heldout import evaluate as losses_of

    gpu, profile = recipe.run.use_gpu, language.profile
    try:
        sampler = open_sampler(trained.model, profile, "cuda" if gpu else "cpu", bf16=gpu)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    drawn: list[Pixels] = []
    if codec is not None:
        asked = [[("human", t2i_prompt(*p.size, p.caption))] for p in held.pictures]
        ids = [encode_prompt(turns, [], language.text.encode, profile).tolist() for turns in asked]
        sizes = [picture.size for picture in held.pictures]
        tokens = sum(w * h for w, h in sizes) // profile.downsample**2
        progress.start(f"drawing {trained.label}", tokens, "tokens")
        codes = sampler.sample(
            ids,
            sizes,
            cfg=recipe.sample.cfg,
            temperature=recipe.sample.temperature,
            top_k=recipe.sample.top_k,
            seed=recipe.sample.seed,
            on_tokens=progress.advance,
        )
        drawn = [codec.decode(one[None])[0] for one in codes]
    progress.start(f"loss {trained.label}", None)
    model = PackedLM(sampler.model)
    return losses_of(model, held.rows, held.numbers, BATCH_TOKENS, sampler.device), drawn


def clip_of(recipe: Recipe, checkpoint: str | None) -> Any:
    """The CLIP that is named, else that of the recipe's score ``clip``; None if there is none.

    Raises:
        RecipeError: there is nothing at the place that is named.
    """
    from rasterloom.filtering.scorers.clip import DEFAULT_CLIP, open_clip

    if checkpoint is None:
        options = next((score.options for score in recipe.score if score.name == "clip"), None)
        if options is None:
            return None
        return open_clip(str(options.get("clip", DEFAULT_CLIP)), options.get("revision"))
    if not Path(checkpoint).is_dir():
        raise RecipeError(f"--clip: no folder {checkpoint}; it takes a checkpoint of transformers' CLIP")
    return open_clip(checkpoint, None)


def keep(recipe: Recipe, checkpoints: Sequence[Trained], evaluation: Evaluation) -> str | None:
    """Put the figures of stages' ends into their folders, and into the report if there is one: its place."""
    corpus = Corpus.of(recipe)
    for trained, figures in zip(checkpoints, evaluation.checkpoints, strict=True):
        if trained.step is None or trained.at is not None:
            continue
        text = json.dumps(asdict(evaluation) | {"checkpoints": [asdict(figures)]}, indent=1)
        corpus.store.put(f"{file_folder(corpus, trained.step)}/{FILE}", text.encode())
        (local_folder(corpus, trained.step) / FILE).write_text(text)
    (report,) = (step for step in workflow(recipe) if step.name == "report")
    return _write_again(recipe, corpus, report) if status(corpus, report).done else None


def _write_again(recipe: Recipe, corpus: Corpus, report: Step) -> str:
    from rich.console import Console

    assert isinstance(report, FileStep)
    folder = local_folder(corpus, report)
    report.make(corpus, inputs_of(corpus, report), report, folder, recipe.run, Progress(Console(quiet=True)))
    place = file_folder(corpus, report)
    for path in folder.iterdir() if corpus.store.is_s3 else ():
        corpus.store.put(f"{place}/{path.name}", path.read_bytes())
    return corpus.store.path(f"{place}/index.html")
