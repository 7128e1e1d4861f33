"""Images and texts that a trained model generates for prompts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rasterloom.errors import RecipeError, one_line
from rasterloom.filtering.judges.base import Judge
from rasterloom.filtering.scenes.grammar import OutsideGrammarError, read_caption
from rasterloom.pipelines.models.load import TextCodec, TrainedModel, sizes_of
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.training import best_images, sample_grid
from rasterloom.pipelines.training.best_images import Best
from rasterloom.pipelines.training.stage_step import worker_takes
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sampling import BestOf
from rasterloom.schema import T2I
from rasterloom.storage.layout import GRID, SAMPLES_JSON
from rasterloom.tokenize.buckets import Size, bucket_sizes, choose_bucket
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.conversation import encode_prompt, structure
from rasterloom.tokenize.cropping import crop_as_coded, upright
from rasterloom.tokenize.prompt_templates import IMAGE, Template, fields_of, t2i_task, templates_of
from rasterloom.utils.json_files import lines_of, to_json
from rasterloom.utils.parallel import Advance
from rasterloom.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from rasterloom.train.sampling.sampler import Sampler

CFG = 3.0  # of images from a prompt alone
CFG_WITH_IMAGE = 1.0  # as in Lumina-mGPT


@dataclass(frozen=True)
class SampleRequest:
    """Prompts, images and sampling settings."""

    prompts: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    task: str | None = None
    """None: `t2i` of a prompt alone, `edit` of prompt and image, `caption` of an image alone."""
    sizes: tuple[str, ...] = ()
    n: int = 1
    cfg: float | None = None
    """None: `CFG`, or `CFG_WITH_IMAGE` of a request with images."""
    temperature: float = 1.0
    top_k: int = 2000
    text_top_k: int = 10
    seed: int = 0
    batch: int = 8
    window: int = 1
    max_tokens: int = 512
    best_of: BestOf | None = None

    @property
    def guidance(self) -> float:
        """Classifier-free guidance scale."""
        return self.cfg if self.cfg is not None else CFG_WITH_IMAGE if self.images else CFG


def untaught(recipe: Recipe, prompts: Sequence[str]) -> list[str]:
    """Notes on prompts that a model of drawn scenes was not taught."""
    notes = []
    if recipe.sample.suite is not None and recipe.sample.suite.prompts == "scenes":
        for prompt in prompts:
            try:
                read_caption(prompt)
            except OutsideGrammarError as error:
                notes.append(f"note: {error}; the model was taught no other prompts")
    return notes


@dataclass(frozen=True)
class Question:
    """One prompt, ready for the model."""

    prompt: str
    image: Path | None
    ids: list[int]
    size: Size | None  # of the answer, in pixels; None: the answer is text


@dataclass(frozen=True)
class Generated:
    """Answers to a request: images, or texts."""

    questions: list[Question]
    images: list[Best]
    texts: list[str]
    seconds: float


class _Settings(TypedDict):
    temperature: float
    seed: int
    on_tokens: Advance


def checked(request: SampleRequest) -> SampleRequest:
    """Return the request with its task filled in.

    Raises:
        RecipeError: it holds neither a prompt nor an image, its seed is negative, or a judge would have to
            choose among answers to an image.
    """
    if request.seed < 0:
        raise RecipeError("takes 0 or more", field="seed", value=request.seed)
    if not request.prompts and not request.images:
        raise RecipeError("nothing is asked for", hint="give {prompt}, {prompts} or {image}")
    if request.best_of and request.images:
        raise RecipeError("a judge chooses by the prompt alone", field="best_of", value=request.best_of.n)
    default = T2I if not request.images else "edit" if request.prompts else "caption"
    return replace(request, task=request.task or default)


def generate(
    recipe: Recipe,
    model: TrainedModel,
    text_codec: TextCodec,
    codec: Codec,
    request: SampleRequest,
    progress: Progress,
) -> Generated:
    """Answer every question of a checked request.

    Raises:
        RecipeError: the task does not fit the prompts and images, an image cannot be read, or a size is no
            bucket's.
    """
    from rasterloom.train.model.threads import torch_threads  # heavy
    from rasterloom.train.sampling.sampler import open_sampler  # heavy

    questions = _questions(recipe, model.target, text_codec, codec, request)
    judge = best_images.judge_of(request.best_of, "judge") if request.best_of else None
    gpu = recipe.run.use_gpu
    try:
        sampler = open_sampler(model.model, text_codec.profile, "cuda" if gpu else "cpu", bf16=gpu)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    sampler.batch, sampler.window = request.batch, request.window
    with torch_threads(worker_takes(model.step, recipe.run).threads):
        if questions[0].size:
            return _images(sampler, questions, codec, request, judge, progress)
        return _texts(sampler, questions, text_codec, request, progress)


def _images(
    sampler: "Sampler",
    questions: list[Question],
    codec: Codec,
    request: SampleRequest,
    judge: Judge | None,
    progress: Progress,
) -> Generated:
    began = time.monotonic()
    each = request.best_of.n if request.best_of else 1
    repeated = [question for question in questions for _ in range(each)]
    sizes = [question.size for question in repeated if question.size]
    tokens = sum(w * h for w, h in sizes) // sampler.profile.downsample**2
    progress.step_started("sample", tokens, "tokens")
    codes = sampler.sample(
        [question.ids for question in repeated],
        sizes,
        cfg=request.guidance,
        top_k=request.top_k,
        **_settings(request, progress),
    )
    images = [Image.fromarray(codec.decode(one[None])[0]) for one in codes]
    prompts = [question.prompt for question in questions]
    chosen = (
        best_images.best_of_each(images, prompts, judge) if judge else [Best(image, None) for image in images]
    )
    return Generated(questions, chosen, [], time.monotonic() - began)


def _texts(
    sampler: "Sampler",
    questions: list[Question],
    text_codec: TextCodec,
    request: SampleRequest,
    progress: Progress,
) -> Generated:
    began = time.monotonic()
    progress.step_started("sample", None, "tokens")
    profile = text_codec.profile
    special = structure(profile)
    text_ids = [i for i in text_codec.text.ids if i < profile.vocab_size and not special[i]]
    answers = sampler.answer(
        [question.ids for question in questions],
        text_ids,
        top_k=request.text_top_k,
        max_tokens=request.max_tokens,
        **_settings(request, progress),
    )
    texts = [text_codec.text.decode(answer) for answer in answers]
    return Generated(questions, [], texts, time.monotonic() - began)


def _settings(request: SampleRequest, progress: Progress) -> _Settings:
    return {"temperature": request.temperature, "seed": request.seed, "on_tokens": progress.advanced}


def write(found: Generated, model: TrainedModel, request: SampleRequest, folder: Path) -> None:
    """Write the images, a grid of them, and ``samples.json``: prompts, settings and model."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_write_answer(found, number, folder) for number in range(len(found.questions))]
    page: dict[str, Any] = {"model": str(model.model), "stage": model.name if model.step else None}
    page |= {"step": model.at, "cfg": request.guidance}
    page |= {name: getattr(request, name) for name in ("temperature", "top_k", "text_top_k", "seed")}
    page |= {"window": request.window} if request.window > 1 else {}
    page |= best_images.settings_of(request.best_of)
    page |= {"task": request.task, "seconds": round(found.seconds, 2), "images": entries}
    if found.images:
        captions = [f"{q.prompt} {q.image.name if q.image else ''}".strip() for q in found.questions]
        sample_grid.grid([best.image for best in found.images], captions, scale=1).save(folder / GRID)
        page["grid"] = GRID
    text = to_json(page, indent=1, ensure_ascii=False)
    (folder / SAMPLES_JSON).write_text(text, encoding="utf-8")


def _write_answer(found: Generated, number: int, folder: Path) -> dict[str, Any]:
    """Write an image, if the answer is one. Return the answer's entry in ``samples.json``."""
    question = found.questions[number]
    entry: dict[str, Any] = {"prompt": question.prompt, "number": number}
    if question.image:
        entry["image"] = str(question.image)
    if not found.images:
        return entry | {"answer": found.texts[number]}
    name, best = f"sample-{number:03d}.png", found.images[number]
    best.image.save(folder / name)
    entry |= {"file": name, "width": best.image.width, "height": best.image.height}
    return entry if best.score is None else entry | {"score": round(best.score, 4)}


def _questions(
    recipe: Recipe, target: int, text_codec: TextCodec, codec: Codec, request: SampleRequest
) -> list[Question]:
    template, fields = _template(recipe, request)
    draws = IMAGE in template.gpt
    questions = []
    for image in request.images or (None,):
        codes, own = _coded(image, recipe, target, codec) if image else (None, None)
        sizes = sizes_of(target, request.sizes) if request.sizes or not own else [own]
        for prompt in request.prompts or ("",):
            for width, height in sizes if draws else sizes[:1]:
                named = dict.fromkeys(fields, prompt) | {"width": width, "height": height}
                turn = [("human", template.human.format(**named))]
                try:
                    ids = encode_prompt(
                        turn, [] if codes is None else [codes], text_codec.text.encode, text_codec.profile
                    )
                except ValueError as error:
                    raise RecipeError(f"the prompt {prompt!r} cannot be used: {error}") from None
                size = (width, height) if draws else None
                questions += [Question(prompt, image, ids.tolist(), size)] * request.n
    return questions


def _template(recipe: Recipe, request: SampleRequest) -> tuple[Template, set[str]]:
    """Template of the task and the fields that a prompt fills. RecipeError if the request does not fit."""
    task, templates = request.task or T2I, templates_of(recipe.tokenize.prompts)
    if task not in templates:
        raise RecipeError(f"no such task; {did_you_mean(task, templates)}", field="task", value=task)
    template = templates[t2i_task(recipe.tokenize) if task == T2I else task]
    if template.gpt.count(IMAGE) > 1:
        message = "answers with several images, which sample does not generate"
        raise RecipeError(message, field="task", value=task)
    asks, asked = template.human.count(IMAGE), bool(request.images)
    if asks > 1 or bool(asks) != asked:
        takes = "takes an image" if asks else "takes no image"
        raise RecipeError(f"{takes}; it says {template.human!r}", field="task", value=task)
    fields = set(fields_of(template.human)) - {"width", "height"}
    if bool(fields) != bool(request.prompts):
        takes = f"needs a prompt for its {min(fields)}" if fields else "takes no prompt"
        raise RecipeError(f"{takes}; it says {template.human!r}", field="task", value=task)
    return template, fields


def _coded(path: Path, recipe: Recipe, target: int, codec: Codec) -> tuple[NDArray[np.int32], Size]:
    """Codes [h, w] of an image, and the bucket of its answer."""
    asked = min(target, recipe.tokenize.prompt_target or target)
    try:
        with Image.open(path) as image:
            if image.width * image.height > recipe.fetch.max_pixels:
                raise ValueError(f"has {image.width} x {image.height} pixels, more than fetch.max_pixels")
            crop, _ = crop_as_coded(image, None, 0, recipe.tokenize, asked)
            size = upright(image, recipe.tokenize).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RecipeError(one_line(error), field="image", value=path) from None
    return codec.encode(np.array(crop)[None])[0], choose_bucket(size, bucket_sizes(target))


def prompts_in(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one a line. Raises RecipeError if there are none."""
    try:
        lines = [line.strip() for line in lines_of(path.read_text(encoding="utf-8-sig"))]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(one_line(error), field="prompts", value=path) from None
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise RecipeError("the file holds no prompt", field="prompts", value=path)
    return prompts


def free_folder(folder: Path | None) -> Path:
    """Return the folder; for None, the first unused "samples-<n>".

    Raises:
        RecipeError: the folder is not empty.
    """
    if folder is None:
        names = chain(["samples"], (f"samples-{number}" for number in count(2)))
        return next(path for path in map(Path, names) if not _holds_something(path))
    if _holds_something(folder):
        raise RecipeError("is not empty", field="folder", value=folder, hint="name a new or an empty folder")
    return folder


def _holds_something(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def settings_used(found: Generated, request: SampleRequest) -> str:
    """One line on the settings of answers."""
    if not found.images:
        return f"temperature {request.temperature:g}, top-k {request.text_top_k:,}, seed {request.seed}"
    guidance = f"guidance {request.guidance:g}" if request.guidance != 1 else "no guidance"
    chosen = f", best of {request.best_of.n} by {request.best_of.judge.name}" if request.best_of else ""
    settings = f"temperature {request.temperature:g}, top-k {request.top_k:,}, seed {request.seed}"
    return f"{guidance}, {settings}{chosen}"


def throughput(found: Generated) -> str:
    """One line on the number of answers and their rate."""
    made: Sequence[Any] = found.images or found.texts
    kind = "image" if found.images else "answer"
    rate = len(made) / max(found.seconds, 1e-9)
    return f"{len(made)} {kind}{'s' * (len(made) != 1)} in {found.seconds:.1f} s, {rate:.2f} a second"
