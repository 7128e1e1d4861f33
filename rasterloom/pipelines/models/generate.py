"""`rasterloom sample`: pictures and texts that a checkpoint answers with."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rasterloom.errors import RecipeError
from rasterloom.pipelines.models.load import Language, Trained, sizes_of
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.training import sample_grid
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import T2I


@dataclass(frozen=True)
class Request:
    """What is asked for, as the command line says it."""

    prompts: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    task: str | None = None
    """None: `t2i` of a prompt alone, `edit` of prompt and image, `caption` of an image alone."""
    sizes: tuple[str, ...] = ()
    n: int = 1
    cfg: float = 3.0
    temperature: float = 1.0
    top_k: int = 2000
    text_top_k: int = 10
    seed: int = 0
    batch: int = 8
    max_tokens: int = 512


@dataclass(frozen=True)
class Question:
    """One prompt, ready for the model."""

    prompt: str
    image: Path | None
    ids: list[int]
    size: tuple[int, int] | None  # of the picture that answers, in pixels; None: text answers


@dataclass(frozen=True)
class Drawn:
    """What came of a request."""

    questions: list[Question]
    pictures: list[Image.Image]  # or
    texts: list[str]
    seconds: float


def draw(
    recipe: Recipe, trained: Trained, language: Language, codec: Any, request: Request, progress: Progress
) -> Drawn:
    """Ask a checkpoint everything that is asked for.

    Raises:
        RecipeError: the task does not fit what is given, an image cannot be read, a size is no bucket's.
    """
    from rasterloom.tokenize.conversation import structure
    from rasterloom.train.model.sampler import open_sampler

    questions = _questions(recipe, trained, language, codec, request)
    gpu, profile = recipe.run.use_gpu, language.profile
    try:
        sampler = open_sampler(trained.model, profile, "cuda" if gpu else "cpu", bf16=gpu)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    began = time.monotonic()
    shared: dict[str, Any] = {
        "temperature": request.temperature,
        "seed": request.seed,
        "batch": request.batch,
    }
    shared["on_tokens"] = progress.advanced
    ids = [question.ids for question in questions]
    sizes = [question.size for question in questions if question.size]
    if sizes:
        progress.step_started("sample", sum(w * h for w, h in sizes) // profile.downsample**2, "tokens")
        codes = sampler.sample(ids, sizes, cfg=request.cfg, top_k=request.top_k, **shared)
        pictures = [Image.fromarray(codec.decode(one[None])[0]) for one in codes]
        return Drawn(questions, pictures, [], time.monotonic() - began)
    progress.step_started("sample", None, "tokens")
    text_ids = np.flatnonzero(~structure(profile)).tolist()
    answers = sampler.answer(ids, text_ids, top_k=request.text_top_k, max_tokens=request.max_tokens, **shared)
    texts = [language.text.decode(answer) for answer in answers]
    return Drawn(questions, [], texts, time.monotonic() - began)


def write(drawn: Drawn, trained: Trained, request: Request, folder: Path) -> None:
    """Write pictures, a grid of them, and ``samples.json``: what was asked of which checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, question in enumerate(drawn.questions):
        entry: dict[str, Any] = {"prompt": question.prompt, "number": number}
        if question.image:
            entry["image"] = str(question.image)
        if drawn.pictures:
            name = f"sample-{number:03d}.png"
            drawn.pictures[number].save(folder / name)
            entry |= {
                "file": name,
                "width": drawn.pictures[number].width,
                "height": drawn.pictures[number].height,
            }
        else:
            entry["answer"] = drawn.texts[number]
        entries.append(entry)
    page: dict[str, Any] = {"model": str(trained.model), "stage": trained.name if trained.step else None}
    page |= {"step": trained.at}
    page |= {name: getattr(request, name) for name in ("cfg", "temperature", "top_k", "text_top_k", "seed")}
    page |= {"task": task_of(request), "seconds": round(drawn.seconds, 2), "images": entries}
    if drawn.pictures:
        captions = [f"{q.prompt} {q.image.name if q.image else ''}".strip() for q in drawn.questions]
        sample_grid.grid(drawn.pictures, captions, scale=1).save(folder / "grid.png")
        page["grid"] = "grid.png"
    (folder / "samples.json").write_text(json.dumps(page, indent=1, ensure_ascii=False), encoding="utf-8")


def task_of(request: Request) -> str:
    """The task that is asked for, or that what is given amounts to."""
    return request.task or (T2I if not request.images else "edit" if request.prompts else "caption")


def _questions(
    recipe: Recipe, trained: Trained, language: Language, codec: Any, request: Request
) -> list[Question]:
    from rasterloom.tokenize.conversation import encode_prompt
    from rasterloom.tokenize.prompt_templates import IMAGE, fields_of, templates_of

    task, templates = task_of(request), templates_of(recipe.tokenize.prompts)
    if task not in templates:
        raise RecipeError(f"--task {task}: no such task; known: {', '.join(templates)}")
    template = templates[task]
    if template.gpt.count(IMAGE) > 1:
        raise RecipeError(f"--task {task} answers with several pictures, which sample does not draw")
    asks, asked = template.human.count(IMAGE), bool(request.images)
    if asks > 1 or bool(asks) != asked:
        takes = "takes an --image" if asks else "takes no --image"
        raise RecipeError(f"--task {task} {takes}: it says {template.human!r}")
    fields = set(fields_of(template.human)) - {"width", "height"}
    if bool(fields) != bool(request.prompts):
        says = f"needs a --prompt for its {sorted(fields)[0]}" if fields else "takes no --prompt"
        raise RecipeError(f"--task {task} {says}: it says {template.human!r}")
    draws = IMAGE in template.gpt
    questions = []
    for image in request.images or (None,):
        codes, own = _coded(image, recipe, trained.target, codec) if image else (None, None)
        sizes = sizes_of(trained.target, request.sizes) if request.sizes or not own else [own]
        for prompt in request.prompts or ("",):
            for width, height in sizes if draws else sizes[:1]:
                named = dict.fromkeys(fields, prompt) | {"width": width, "height": height}
                turn = [("human", template.human.format(**named))]
                try:
                    ids = encode_prompt(
                        turn, [] if codes is None else [codes], language.text.encode, language.profile
                    )
                except ValueError as error:
                    raise RecipeError(f"the prompt {prompt!r} cannot be asked: {error}") from None
                size = (width, height) if draws else None
                questions += [Question(prompt, image, ids.tolist(), size)] * request.n
    return questions


def _coded(path: Path, recipe: Recipe, target: int, codec: Any) -> tuple[Any, tuple[int, int]]:
    """The codes [h, w] of a picture as tokenising makes them, and the bucket that an answer to it has."""
    from rasterloom.tokenize.buckets import bucket_sizes, choose_bucket
    from rasterloom.tokenize.crop import apply_crop, plan_crop

    asked = min(target, recipe.tokenize.prompt_target or target)
    try:
        with Image.open(path) as image:
            picture = ImageOps.exif_transpose(image) if recipe.tokenize.exif else image
            plan = plan_crop(picture.size, bucket_sizes(asked))
            pixels = np.array(apply_crop(picture, plan))
    except OSError as error:
        raise RecipeError(f"--image {path}: {' '.join(str(error).split())}") from None
    return codec.encode(pixels[None])[0], choose_bucket(picture.size, bucket_sizes(target))


def prompts_in(path: Path) -> tuple[str, ...]:
    """The prompts in a text file, one a line. Raises RecipeError if there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--prompts {path}: {error}") from None
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise RecipeError(f"--prompts {path} holds no prompt")
    return prompts


def free_folder(folder: Path | None) -> Path:
    """A folder that holds nothing yet: this one, or the first of samples, samples-2, ...

    Raises:
        RecipeError: this one holds something.
    """
    if folder is None:
        names = chain(["samples"], (f"samples-{number}" for number in count(2)))
        return next(path for path in map(Path, names) if not _holds_something(path))
    if _holds_something(folder):
        raise RecipeError(f"--out {folder} is there already: name a new or an empty folder")
    return folder


def _holds_something(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def pace(drawn: Drawn) -> str:
    """One line on how fast it went."""
    made: Sequence[Any] = drawn.pictures or drawn.texts
    kind = "picture" if drawn.pictures else "answer"
    rate = len(made) / max(drawn.seconds, 1e-9)
    return f"{len(made)} {kind}{'s' * (len(made) != 1)} in {drawn.seconds:.1f} s, {rate:.2f} a second"
