"""Step that draws and judges a suite's images with one model."""

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.base import Judge, Judgement, SuitePrompt
from rasterloom.filtering.judges.prompts import load_prompts
from rasterloom.filtering.judges.registry import identity_of, make_judges
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.models.load import TrainedModel, sizes_of
from rasterloom.pipelines.step import Inputs, Shard, ShardResult, ShardSpec, ShardStep
from rasterloom.pipelines.training.result_folder import model_folder
from rasterloom.pipelines.training.stage_step import worker_takes
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import file_folder
from rasterloom.recipe.base import Section
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.suites import Suite, taken
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import StepKind
from rasterloom.storage.layout import MODEL
from rasterloom.storage.store import Store
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.codecs.load import codec_of
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.train.model.checkpoint_files import weights_digest

if TYPE_CHECKING:
    from rasterloom.train.sampling.sampler import Sampler

SHARD_PROMPTS = 32  # of one seed: a batch of the sampler
MARK = pa.struct(
    [("judge", pa.string()), ("skill", pa.string()), ("score", pa.float64()), ("question", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("name", pa.string()),
        ("prompt", pa.string()),
        ("category", pa.string()),
        ("seed", pa.int64()),
        ("image", pa.binary()),
        ("totals", pa.list_(MARK)),
        ("marks", pa.list_(MARK)),
        ("notes", pa.map_(pa.string(), pa.string())),
        ("embeddings", pa.map_(pa.string(), pa.list_(pa.float32()))),
    ]
)


class SuiteAt(Section):
    """Config of a suite for a model of one target."""

    target: int
    size: tuple[int, int]
    seeds: int
    cfg: float
    temperature: float
    top_k: int
    seed: int
    tokenize: token_work.AnyPlace
    # Known by their digests: what they hold counts, not where they lie.
    prompts: tuple[SuitePrompt, ...] = Field(exclude=True)
    judges: tuple[Score, ...] = Field(exclude=True)
    threads: int = Field(exclude=True)
    gpu: bool = Field(exclude=True)


@dataclass(frozen=True)
class SuiteSpec(ShardSpec):
    """Some prompts of a suite, with one seed."""

    first: int
    last: int  # not among them
    seed: int
    model: str | None = None  # a folder, or a name in the store; for the work alone
    text: str | None = None  # name in the store


def prompts_of(suite: Suite) -> tuple[SuitePrompt, ...]:
    """Prompts of a suite, up to its limit. RecipeError if there are none."""
    return tuple(taken(load_prompts(suite.prompts), suite.limit))


def suite_step(workflow: Workflow, suite: Suite, model: TrainedModel) -> ShardStep[SuiteAt, SuiteSpec]:
    """Make the step of a suite and a model.

    Raises:
        RecipeError: prompts, judges or the size cannot be used.
    """
    recipe, prompts = workflow.recipe, prompts_of(suite)
    sample = recipe.sample
    try:
        judges = make_judges(suite.judges)
    except ValueError as error:
        raise RecipeError(f"suite {suite.name}: {error}") from None
    (size,) = sizes_of(model.target, ["{}x{}".format(*suite.size)] if suite.size else [])
    config = SuiteAt(
        target=model.target,
        size=size,
        seeds=suite.seeds,
        **{name: getattr(sample, name) for name in ("cfg", "temperature", "top_k", "seed")},
        tokenize=recipe.tokenize,
        prompts=prompts,
        judges=suite.judges,
        threads=int(worker_takes(model.step, recipe.run).threads),
        gpu=recipe.run.use_gpu,
    )
    text = workflow.step(StepKind.TEXT)
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", model.label).strip("-.")
    return ShardStep(
        StepKind.SUITE.step(f"{suite.name}-{label}"),
        config,
        code_version="1",
        inputs=(text,),
        identity={
            "model": weights_digest(model.model),
            "prompts": _digest(prompts),
            "judges": identity_of(judges),
        },
        plan=partial(plan_suite, model=_place(workflow, model)),
        work=draw_and_judge,
        schema=SCHEMA,
        cpus=worker_takes(model.step, recipe.run).cpus,
        uses_gpu=True,
    )


def _digest(prompts: tuple[SuitePrompt, ...]) -> str:
    text = json.dumps([asdict(prompt) for prompt in prompts], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _place(workflow: Workflow, model: TrainedModel) -> str:
    """Name of a stage's model in an S3 store, else its folder.

    Any node can read what has a name.
    """
    corpus = workflow.corpus
    if corpus.store.is_s3 and model.step and model.at is None and model.model.name == MODEL:
        return f"{file_folder(corpus, model.step)}/{MODEL}"
    return str(model.model)


def plan_suite(store: Store, inputs: Inputs, config: SuiteAt, *, model: str) -> list[Shard[SuiteSpec]]:
    """Cut a suite by seeds, then by prompts."""
    text = inputs[StepKind.TEXT][0].name
    shards: list[Shard[SuiteSpec]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        for first in range(0, len(config.prompts), SHARD_PROMPTS):
            last = min(first + SHARD_PROMPTS, len(config.prompts))
            spec, now = SuiteSpec(first, last, seed), SuiteSpec(first, last, seed, model, text)
            shards.append(Shard(f"{len(shards):06d}", spec, now=now, rows=last - first))
    return shards


def draw_and_judge(store: Store, spec: SuiteSpec, config: SuiteAt) -> ShardResult:
    """Draw the images of some prompts and judge them."""
    from rasterloom.train.model.threads import torch_threads  # heavy

    assert spec.model and spec.text
    prompts = config.prompts[spec.first : spec.last]
    text, profile = token_work.load_text(store, spec.text, config.tokenize)
    codec, judges = _codec(config.tokenize, config.gpu), _judges(config.judges)
    turns = [[("human", t2i_prompt(*config.size, prompt.text, config.tokenize))] for prompt in prompts]
    ids = [encode_prompt(turn, [], text.encode, profile).tolist() for turn in turns]
    with torch_threads(config.threads):
        sampler = _sampler(store, spec.model, spec.text, config.tokenize, config.gpu)
        sampler.first = spec.first
        codes = sampler.sample(
            ids,
            [config.size] * len(ids),
            cfg=config.cfg,
            temperature=config.temperature,
            top_k=config.top_k,
            seed=spec.seed,
        )
        images = [codec.decode(one[None])[0] for one in codes]
        judged = {judge.name: judge(images, prompts) for judge in judges}
    rows = []
    for place, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        of_image = {name: judgements[place] for name, judgements in judged.items()}
        about = {"number": spec.first + place, "name": prompt.name, "prompt": prompt.text}
        about |= {"category": prompt.category, "seed": spec.seed, "image": _png(image)}
        rows.append({**about, **_marks(of_image)})
    return pa.Table.from_pylist(rows, SCHEMA), {"images": len(rows)}


def _marks(of_image: dict[str, Judgement]) -> dict[str, object]:
    """Columns of what the judges say of an image."""
    totals, marks = [], []
    for judge, found in of_image.items():
        totals += [
            {"judge": judge, "skill": name, "score": score, "question": ""}
            for name, score in found.totals.items()
        ]
        marks += [{"judge": judge, **asdict(mark)} for mark in found.marks]
    notes = [(judge, found.note) for judge, found in of_image.items() if found.note]
    embeddings = [(judge, found.embedding) for judge, found in of_image.items() if found.embedding]
    return {"totals": totals, "marks": marks, "notes": notes, "embeddings": embeddings}


@lru_cache(maxsize=1)
def _codec(config: Tokenize, gpu: bool) -> Codec:
    return codec_of(config, None if gpu else "cpu")


_JUDGES: dict[str, list[Judge]] = {}  # by their configs, in this worker


def _judges(configs: tuple[Score, ...]) -> list[Judge]:
    key = repr(configs)
    if key not in _JUDGES:
        _JUDGES.clear()
        _JUDGES[key] = make_judges(configs)
    return _JUDGES[key]


@lru_cache(maxsize=1)
def _sampler(store: Store, model: str, text: str, config: Tokenize, gpu: bool) -> "Sampler":
    from rasterloom.train.sampling.sampler import open_sampler  # heavy

    _, profile = token_work.load_text(store, text, config)
    with model_folder(store, model) as folder:
        return open_sampler(folder, profile, "cuda" if gpu else "cpu", bf16=gpu)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
