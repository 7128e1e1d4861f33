"""Training stage as a step: its inputs, and the job of its workers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.execution.nodes import of_kind
from rasterloom.pipelines.progress.reporter import Progress, figures
from rasterloom.pipelines.step import FileStep, Inputs, Step
from rasterloom.pipelines.training import preview_images
from rasterloom.pipelines.training.pinned_tokens import INDEX, Pinned, pinned_files, pinned_step, pinned_text
from rasterloom.pipelines.workspace.status import file_folder, local_folder, output_files, status
from rasterloom.recipe.base import Section
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.recipe.sampling import Sample
from rasterloom.recipe.train import SPEED_ONLY, Part, Stage, Train
from rasterloom.schema import Profile
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.tokenize.text_tokenizer import TextEncoder, text_of
from rasterloom.train.job import PartFiles, StageJob, WorkerTakes
from rasterloom.versions.corpus import Corpus


def _what_counts(train: Train) -> dict[str, Any]:
    return train.model_dump(mode="json", exclude=SPEED_ONLY)


class TrainAt(Section):
    """One stage, with what all stages share."""

    stage: Stage
    train: Annotated[Train, PlainSerializer(_what_counts)]
    tokenize: token_work.AnyPlace
    sample: Sample = Field(Sample(), exclude=True)
    """What is drawn on the way; it changes nothing in the stage."""
    sources: tuple[str, ...] = Field(exclude=True)
    """The step that each part of the stage has its tokens from: ``tokens/<target>``, or a pinned version."""


def stage_step(recipe: Recipe, number: int, corpus: dict[str, Step], before: Step | None) -> FileStep:
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
    given: dict[str, Step] = {}
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
    name = f"train/{number + 1}-{stage.label}"
    return FileStep(name, config, _code_version(config.train), inputs, make=train_stage, resumes=True)


def _code_version(train: Train) -> str:
    """Code version of a stage.

    2: mixtures; 3, with Muon: torch's, which rounds to bfloat16 inside.
    """
    return "3" if train.optimizer == "muon" else "2"


def _steps_of(recipe: Recipe, part: Part, corpus: dict[str, Step], field: str) -> list[Step]:
    """The step of a part's tokens, and those of the text vocabulary and the length index that go with it."""
    if part.corpus is None and part.target in recipe.tokenize.targets:
        return [corpus[name] for name in (f"tokens/{part.target}", "text", f"lengths/{part.target}")]
    return [pinned_step(recipe, part, field)]


def token_files(corpus: Corpus, step: Step) -> list[DataFile]:
    """The token files of a step of tokens, or of a pinned version."""
    return pinned_files(corpus, step) if isinstance(step, Pinned) else output_files(corpus, step)


def text_content(corpus: Corpus, step: Step) -> str:
    """The tokenizer.json of the step ``text``, or of a pinned version."""
    if isinstance(step, Pinned):
        return pinned_text(corpus, step).decode()
    (file,) = output_files(corpus, step)
    return corpus.store.read(file.name).decode()


def text_of_stage(step: Step) -> Step:
    """The input of a stage that has its text vocabulary."""
    return next(given for given in step.inputs if given.name == "text" or isinstance(given, Pinned))


def missing_inputs(corpus: Corpus, step: Step) -> list[str]:
    """Inputs of a stage that are not there yet.

    What can be looked up, or follows from the others, does not count.
    """
    made_here = ("pinned", "lengths", "train")
    needed = [given for given in step.inputs if given.name.split("/")[0] not in made_here]
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
        snapshot, indexer = status(corpus, source).snapshot_id, given[tokens.replace("tokens/", "lengths/")]
    there = status(corpus, indexer).done
    index = corpus.store.path(f"{file_folder(corpus, indexer)}/{INDEX}") if there else None
    return _PartTokens(token_files(corpus, source), index, snapshot)


def stage_job(corpus: Corpus, step: Step, folder: Path, run: Run) -> StageJob:
    """The job of a stage, whose tokens are there.

    Raises:
        RecipeError: its parts, or the stage before, were written with other text vocabularies.
    """
    config = step.config
    assert isinstance(config, TrainAt)
    before = stage_before(step)
    _, profile = _text(corpus, step)
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
        keep_optimizer_from=_place(corpus, before) if before and keep else None,
        checkpoints=f"{_place(corpus, step)}/checkpoints" if corpus.store.is_s3 else None,
        out_dir=str(folder),
        workers=run.train_workers.max,
        min_workers=run.train_workers.min,
        max_failures=run.max_failures,
        takes=worker_takes(step, run),
    )


def _init(corpus: Corpus, before: Step) -> str:
    """Folder of the weights that a stage leaves, also before it is done."""
    if not status(corpus, before).done:
        return corpus.store.path(f"{file_folder(corpus, before)}/model")
    return str(local_folder(corpus, before) / "model")


def worker_takes(step: Step, run: Run) -> WorkerTakes:
    """Resources of a training worker: the recipe's, else one CPU or GPU."""
    takes = run.takes(step.name)
    return WorkerTakes(
        cpus=takes.cpus or 1.0,
        gpus=1.0 if run.use_gpu else 0.0,
        memory=int(takes.memory or 0),
        resources=dict(takes.resources),
        accelerator=takes.accelerator if run.use_gpu else None,
        placement=takes.placement or "PACK",
    )


def worker_needs(step: Step, run: Run) -> dict[str, float]:
    """Resources of a training worker, in Ray's terms."""
    takes = worker_takes(step, run)
    return {**takes.needs, **of_kind(takes.accelerator)}


def training_store(corpus: Corpus, step: Step) -> str:
    """Name of a stage's checkpoint folder in a workspace on S3.

    Apart from its result, which the next stage copies.
    """
    return f"{corpus.name}/training/{step.name}/{step.fingerprint}"


def checkpoint_store(corpus: Corpus, step: Step) -> Store:
    """Store of a stage's checkpoints."""
    return Store(f"{_place(corpus, step)}/checkpoints")


def _place(corpus: Corpus, step: Step) -> str:
    """The folder of a stage's checkpoints, or its ``s3://bucket/prefix``."""
    name = training_store(corpus, step) if corpus.store.is_s3 else file_folder(corpus, step)
    return corpus.store.uri(name) if corpus.store.is_s3 else corpus.store.path(name)


def stage_before(step: Step) -> Step | None:
    """The stage whose weights a stage starts from."""
    return next((given for given in step.inputs if given.name.startswith("train/")), None)


def _text(corpus: Corpus, step: Step) -> tuple[TextEncoder, Profile]:
    """Text encoder of a stage, and the token ids that go with it."""

    config = step.config
    assert isinstance(config, TrainAt)
    before = stage_before(step)
    of_stage = [given for given in step.inputs if given.name == "text" or isinstance(given, Pinned)]
    first = text_content(corpus, of_stage[0])
    for other in [*of_stage[1:], *([text_of_stage(before)] if before else [])]:
        if text_content(corpus, other) != first:
            raise RecipeError(
                f"{step.name}: the text vocabularies of {of_stage[0].name} and {other.name} differ, so that "
                "ids mean different words; train on tokens of one version, or tokenise them all with one "
                "tokenizer.json (tokenize.text)"
            )
    return text_of(config.tokenize, first)


def train_stage(
    corpus: Corpus, inputs: Inputs, step: FileStep, folder: Path, run: Run, progress: Progress
) -> dict[str, int]:
    """Train one stage, which resumes from the checkpoints in its folder."""
    from rasterloom.train import ray_trainer  # heavy

    config = step.config
    assert isinstance(config, TrainAt)
    job = stage_job(corpus, step, folder, run)
    previews = _preview_images(config, folder)
    if previews:
        target = max(part.target for part in config.stage.parts)
        text, profile = _text(corpus, step)
        preview = preview_images.preview_of(config.sample, (target, target), text, profile)
        job = replace(job, preview=preview)

    def show(row: dict[str, Any]) -> None:
        _show(progress, row)
        if previews:
            previews.update()

    progress.holds(job.workers, job.takes.cpus, job.takes.gpus)
    progress.update(0, "workers start", total=None, unit="steps")
    result = ray_trainer.train_stage(job, show, lambda text: progress.say(f"{step.name} {text}"))
    if previews:
        previews.update()
    return {"steps": result.steps, "tokens": result.tokens}


def _preview_images(config: TrainAt, folder: Path) -> preview_images.PreviewImages | None:
    """Decoder of preview images; None if there are to be none."""
    from rasterloom.tokenize.codecs.load import codec_of  # heavy

    if not config.train.sample_every or not config.sample.prompts:
        return None
    codec = codec_of(config.tokenize, "cpu")  # the GPUs are busy
    return preview_images.PreviewImages(folder, codec, config.train) if codec.can_decode else None


def _show(progress: Progress, row: dict[str, Any]) -> None:
    progress.update(
        row["step"], total=row["total"], unit="steps", workers=row["workers"], training=figures(row)
    )
