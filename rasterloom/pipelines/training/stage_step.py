"""Training stage as a step: its inputs, and the job of its workers."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import Field, PlainSerializer

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.execution.nodes import of_kind
from rasterloom.pipelines.progress.counts import Figures, Note, Unit, Workers
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import figures
from rasterloom.pipelines.step import FileStep, HasResult, Step, StepContext, StepProgress
from rasterloom.pipelines.training import preview_images
from rasterloom.pipelines.training.model_vocabulary import check_vocabulary, vocabulary_of
from rasterloom.pipelines.training.pinned_tokens import Pinned, pinned_files, pinned_step, pinned_text
from rasterloom.pipelines.workspace.status import file_folder, local_folder, output_files, status
from rasterloom.recipe.base import Section
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.train import SECTIONS_OF_A_STAGE, SPEED_ONLY, Part, Stage, Train
from rasterloom.schema import Profile, StepKind
from rasterloom.storage.layout import CHECKPOINTS, MODEL
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.tokenize.text_tokenizer import JsonText, text_of
from rasterloom.train.job import PartFiles, StageJob, WorkerTakes
from rasterloom.train.model.checkpoint_files import weights_digest
from rasterloom.train.model.shapes import SIZES
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.versions.corpus import Corpus

CODE_VERSION = "4"
"""Code version of a stage.

2: mixtures; 3, with Muon: torch's, which rounds to bfloat16 inside; 4: streams of random draws by stage and
pass (`utils.random_streams`).
"""


def _what_counts(train: Train) -> dict[str, Any]:
    """Fields of a stage's identity. Initial weights take part by their content, see `_identity`."""
    counts = train.model_dump(mode="json", exclude=SPEED_ONLY)
    return counts if train.init in SIZES else {name: v for name, v in counts.items() if name != "init"}


def _what_does_not_count(train: Train) -> dict[str, Any]:
    """Fields that change no result, for `plan` to tell of."""
    fields = {name: which for name, which in SPEED_ONLY.items() if name != "stages"}
    return train.model_dump(mode="json", include=fields)


def _identity(train: Train, before: HasResult | None) -> dict[str, str]:
    """Digest of the weights that the first stage starts from."""
    return {} if before or train.init in SIZES else {"init": weights_digest(Path(train.init))}


def _of_stage(stage: Stage) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude=set(SECTIONS_OF_A_STAGE))


class TrainAt(Section):
    """One stage, with what all stages share."""

    stage: Annotated[Stage, PlainSerializer(_of_stage)]
    train: Annotated[Train, PlainSerializer(_what_counts)]
    tokenize: token_work.AnyPlace
    sample: SamplingConfig = Field(SamplingConfig(), exclude=True)
    """What is drawn on the way; it changes nothing in the stage."""
    sources: tuple[str, ...] = Field(exclude=True)
    """The step that each part of the stage has its tokens from: ``tokens/<target>``, or a pinned version."""


StageStep = FileStep[TrainAt]


def stage_step(
    recipe: Recipe, number: int, corpus: dict[str, HasResult], before: StageStep | None
) -> StageStep:
    """The step of a stage.

    Args:
        number: of the stage, from 0.
        corpus: the steps that make the recipe's own corpus, by name.
        before: the stage before, whose weights this one starts from.

    Raises:
        RecipeError: a part's tokens are neither made by the recipe nor there already.
    """
    assert recipe.train
    stage = recipe.train.stages[number]
    given: dict[str, HasResult] = {}
    sources = []
    for n, part in enumerate(stage.parts):
        field = f"train.stages[{number}]" + (f".mixture[{n}]" if stage.mixture else "")
        tokens, *others = _steps_of(recipe, part, corpus, field)
        sources.append(tokens.name)
        given |= {step.name: step for step in (tokens, *others)}
    targets = tuple(dict.fromkeys(part.target for part in stage.parts))
    config = TrainAt(
        stage=stage,
        train=recipe.train.of_stage(number),
        tokenize=recipe.tokenize.model_copy(update={"targets": targets}),
        sample=recipe.sample,
        sources=tuple(sources),
    )
    inputs = (*given.values(), *([before] if before else []))
    name = StepKind.TRAIN.step(f"{number + 1}-{stage.label}")
    return FileStep(
        name,
        config,
        _code_version(config),
        inputs,
        _identity(recipe.train, before),
        other_settings={"train": _what_does_not_count(config.train)},
        make=train_stage,
        resumes=True,
    )


def _code_version(config: TrainAt) -> str:
    """Code version of a stage. Adapters that go on have one of their own.

    1: they name and keep their own base; 2: under ZeRO 1, too.
    """
    goes_on = config.train.model.lora is not None and config.stage.optimizer_state == "keep"
    return f"{CODE_VERSION}.2" if goes_on else CODE_VERSION


def _steps_of(recipe: Recipe, part: Part, corpus: dict[str, HasResult], field: str) -> list[HasResult]:
    """The steps of a part's tokens, text vocabulary and length index."""
    if part.corpus is None and part.target in recipe.tokenize.targets:
        return [
            corpus[n] for n in (StepKind.TOKENS.step(part.target), "text", StepKind.LENGTHS.step(part.target))
        ]
    return [pinned_step(recipe, part, field)]


def token_files(corpus: Corpus, step: HasResult) -> list[DataFile]:
    """The token files of a step or a pinned version."""
    return pinned_files(corpus, step) if isinstance(step, Pinned) else output_files(corpus, step)


def text_content(corpus: Corpus, step: HasResult) -> str:
    """The tokenizer.json of the step ``text``, or of a pinned version."""
    if isinstance(step, Pinned):
        return pinned_text(corpus, step).decode()
    (file,) = output_files(corpus, step)
    return corpus.store.read(file.name).decode()


def text_of_stage(step: Step) -> HasResult:
    """The input of a stage that has its text vocabulary."""
    return next(given for given in step.inputs if given.kind in (StepKind.TEXT, StepKind.PINNED))


def missing_inputs(corpus: Corpus, step: Step) -> list[str]:
    """Inputs of a stage that are not there yet.

    What can be looked up, or follows from the others, does not count.
    """
    made_here = (StepKind.PINNED, StepKind.LENGTHS, StepKind.TRAIN)
    needed = [given for given in step.inputs if given.kind not in made_here]
    return [given.name for given in needed if not status(corpus, given).done]


@dataclass(frozen=True)
class _PartTokens:
    files: list[DataFile]
    index: str | None
    snapshot: int | None


def _part_tokens(corpus: Corpus, step: Step, tokens: str) -> _PartTokens:
    given = {one.name: one for one in step.inputs}
    source = given[tokens]
    if isinstance(source, Pinned):
        snapshot, indexer = source.settings["snapshot"], given[tokens]
    else:
        snapshot, indexer = status(corpus, source).snapshot_id, given[StepKind.LENGTHS.step(source.part)]
    there = status(corpus, indexer).done
    index = corpus.store.path(corpus.layout.lengths(indexer.name, indexer.fingerprint)) if there else None
    return _PartTokens(token_files(corpus, source), index, snapshot)


def stage_job(corpus: Corpus, step: StageStep, folder: Path, run: Run) -> StageJob:
    """The job of a stage, whose tokens are there.

    Raises:
        RecipeError: its parts, the stage before, or ``train.init`` have other text vocabularies.
    """
    config = step.config
    before = stage_before(step)
    text, profile = _text(corpus, step)
    if before is None and config.train.init not in SIZES:
        check_vocabulary(Path(config.train.init), text, field="train.init")
    parts = [_part_tokens(corpus, step, name) for name in config.sources]
    mixture = tuple(
        PartFiles(len(tokens.files), tokens.index, part.weight, part.tasks)
        for tokens, part in zip(parts, config.stage.parts, strict=True)
    )
    keep = config.stage.optimizer_state == "keep"
    return StageJob(
        stage=config.stage,
        train=config.train,
        profile=profile,
        token_files=tuple(corpus.store.path(file.name) for part in parts for file in part.files),
        filesystem=corpus.store.filesystem if corpus.store.is_s3 else None,
        tokens_snapshot="+".join(str(part.snapshot) for part in parts),
        token_index=mixture[0].index,
        mixture=mixture if config.stage.mixture else (),
        init=_init(corpus, before) if before else config.train.init,
        vocabulary=vocabulary_of(text),
        init_digest=before.fingerprint if before else step.identity.get("init", config.train.init),
        keep_optimizer_from=_place(corpus, before) if before and keep else None,
        checkpoints=f"{_place(corpus, step)}/{CHECKPOINTS}" if corpus.store.is_s3 else None,
        out_dir=str(folder),
        workers=run.train_workers.max,
        min_workers=run.train_workers.min,
        max_failures=run.max_failures,
        room_wait_s=60 * run.node_wait_minutes or math.inf,
        takes=worker_takes(step, run),
    )


def _init(corpus: Corpus, before: HasResult) -> str:
    """Folder of a stage's weights, also before it is done."""
    if not status(corpus, before).done:
        return corpus.store.path(f"{file_folder(corpus, before)}/{MODEL}")
    return str(local_folder(corpus, before) / MODEL)


def worker_takes(step: HasResult | None, run: Run) -> WorkerTakes:
    """Resources of a training worker: the recipe's, else one CPU or GPU. None: of any stage."""
    takes = run.takes(step.name if step else StepKind.TRAIN)
    return WorkerTakes(
        cpus=takes.cpus or 1.0,
        gpus=1.0 if run.use_gpu else 0.0,
        memory=int(takes.memory or 0),
        resources=dict(takes.resources),
        accelerator=takes.accelerator if run.use_gpu else None,
        placement=takes.placement or "PACK",
    )


def worker_needs(step: HasResult, run: Run) -> dict[str, float]:
    """Resources of a training worker, in Ray's terms."""
    takes = worker_takes(step, run)
    return {**takes.needs, **of_kind(takes.accelerator)}


def training_store(corpus: Corpus, step: HasResult) -> str:
    """Name of a stage's checkpoint folder in a workspace on S3.

    Apart from its result, which the next stage copies.
    """
    return corpus.layout.training(step.name, step.fingerprint)


def checkpoint_store(corpus: Corpus, step: HasResult) -> Store:
    """Store of a stage's checkpoints."""
    return Store(f"{_place(corpus, step)}/{CHECKPOINTS}")


def _place(corpus: Corpus, step: HasResult) -> str:
    """The folder of a stage's checkpoints, or its ``s3://bucket/prefix``."""
    name = training_store(corpus, step) if corpus.store.is_s3 else file_folder(corpus, step)
    return corpus.store.uri(name) if corpus.store.is_s3 else corpus.store.path(name)


def is_stage(step: HasResult) -> TypeGuard[StageStep]:
    """True if a step trains."""
    return step.kind is StepKind.TRAIN


def stage_before(step: StageStep) -> StageStep | None:
    """The stage whose weights a stage starts from."""
    return next(filter(is_stage, step.inputs), None)


def _text(corpus: Corpus, step: StageStep) -> tuple[JsonText, Profile]:
    """Text encoder of a stage, and its token ids."""

    config = step.config
    before = stage_before(step)
    of_stage = [given for given in step.inputs if given.kind in (StepKind.TEXT, StepKind.PINNED)]
    first = text_content(corpus, of_stage[0])
    for other in [*of_stage[1:], *([text_of_stage(before)] if before else [])]:
        if text_content(corpus, other) != first:
            raise RecipeError(
                f"{step.name}: the text vocabularies of {of_stage[0].name} and {other.name} differ, so that "
                "ids mean different words; train on tokens of one version, or tokenise them all with one "
                "tokenizer.json (tokenize.text)"
            )
    return text_of(config.tokenize, first)


def _say_where_it_goes_on(job: StageJob, say: Callable[[str], None]) -> None:
    from rasterloom.train.checkpoint.saver import latest  # heavy

    with suppress(ValueError, OSError):  # which the workers report
        if found := latest(job.checkpoint_store, job.digest()):
            say(f"continues from step {found.position.step:,}, {job.checkpoint_store.root}/{found.name}")


def train_stage(context: StepContext[TrainAt]) -> dict[str, int]:
    """Train one stage, which resumes from the checkpoints in its folder."""
    from rasterloom.train import ray_trainer  # heavy

    corpus, step, config, progress = context.corpus, context.step, context.config, context.progress
    job = stage_job(corpus, step, context.folder, context.run)
    previews = _preview_images(config, context.folder)
    if previews:
        target = max(part.target for part in config.stage.parts)
        text, profile = _text(corpus, step)
        preview = preview_images.preview_of(config.sample, (target, target), text, profile, config.tokenize)
        job = replace(job, preview=preview)

    metrics = Metrics(corpus.name, step.name)

    def show(row: dict[str, Any]) -> None:
        _show(progress, row)
        metrics.trained(row)
        if previews:
            previews.update()

    progress.counted(Workers(job.workers, job.takes.cpus, job.takes.gpus))
    progress.counted(Unit("steps"))
    _say_where_it_goes_on(job, lambda text: progress.say(f"{step.name} {text}"))
    progress.counted(Note("workers start"))
    result = ray_trainer.train_stage(job, show, lambda text: progress.say(f"{step.name} {text}"))
    if previews:
        previews.update()
    return {"steps": result.steps, "tokens": result.tokens, **_caption_rows(job)}


def _caption_rows(job: StageJob) -> dict[str, int]:
    """Rows trained on by name of their caption, of several."""
    found: Counter[str] = Counter()
    for row in read_metrics(job.metrics_file) if job.train.captions else ():
        found.update({f"caption {name}": of["rows"] for name, of in row.get("captions", {}).items()})
    return dict(found)


def _preview_images(config: TrainAt, folder: Path) -> preview_images.PreviewImages | None:
    """Decoder of preview images; None if there are to be none."""
    from rasterloom.tokenize.codecs.load import codec_of  # heavy

    if not config.train.sample_every or not config.sample.prompts:
        return None
    codec = codec_of(config.tokenize, "cpu")  # the GPUs are busy
    return preview_images.PreviewImages(folder, codec, config.train) if codec.can_decode else None


def _show(progress: StepProgress, row: dict[str, Any]) -> None:
    progress.counted(Workers(row["workers"]))
    progress.counted(Figures(figures(row)))
    progress.advanced(row["step"], row["total"])
