"""Steps after the corpus: training stages, samples, report."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import yaml
from PIL import Image
from pydantic import Field, PlainSerializer

from rasterloom.filtering.judges.registry import identity_of
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.execution.gpu_task import on_a_gpu
from rasterloom.pipelines.progress.counts import Workers
from rasterloom.pipelines.step import FileStep, HasResult, Step, StepContext, config_of, table_of
from rasterloom.pipelines.training import sample_grid, sample_work
from rasterloom.pipelines.training.best_images import judge_of
from rasterloom.pipelines.training.pinned_tokens import Pinned
from rasterloom.pipelines.training.result_folder import shown_folder
from rasterloom.pipelines.training.stage_step import (
    StageStep,
    stage_step,
    text_content,
    text_of_stage,
    token_files,
    worker_takes,
)
from rasterloom.pipelines.workspace.status import file_folder, status
from rasterloom.recipe.base import Section, is_default
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import T2I, StepKind, bucket_name
from rasterloom.storage.layout import MODEL, MODEL_EMA
from rasterloom.storage.parquet_io import DataFile
from rasterloom.tokenize.cropping import crop_as_coded
from rasterloom.tokenize.text_tokenizer import text_of
from rasterloom.versions.corpus import Corpus


def _as_fingerprinted(config: SamplingConfig) -> dict[str, Any]:
    # A field that is gone stays in the digest, so that images drawn without it keep their fingerprint.
    return {**config.model_dump(mode="json"), "colour_check": None}


class SampleAt(Section):
    """Settings of samples, for a model of one target."""

    target: int
    sample: Annotated[SamplingConfig, PlainSerializer(_as_fingerprinted)]
    tokenize: token_work.AnyPlace
    judge: dict[str, str] | None = Field(None, exclude_if=is_default(None))
    """Version, digest and package of the judge that chooses; null: no choice."""


class Report(Section):
    """Settings of the report."""

    recipe: dict[str, Any]


def training_steps(recipe: Recipe, corpus: list[HasResult]) -> list[HasResult]:
    """The steps from tokens to report. The report alone if the recipe does not train."""
    by_name = {step.name: step for step in corpus}
    stages: list[StageStep] = []
    pinned: dict[str, HasResult] = {}
    for number in range(len(recipe.train.stages) if recipe.train else 0):
        stage = stage_step(recipe, number, by_name, stages[-1] if stages else None)
        stages.append(stage)
        pinned |= {given.name: given for given in stage.inputs if isinstance(given, Pinned)}
    samples = [_sample_step(recipe, stages[-1])] if stages else []
    shown = (*corpus, *pinned.values(), *stages, *samples)
    told = Report(
        recipe=json.loads(recipe.json_from_folder(exclude={"run", "catalog"}, exclude_defaults=True))
    )
    report = FileStep(StepKind.REPORT.value, told, "2", shown, make=write_report, shows_rows=True)
    return [*pinned.values(), *stages, *samples, report]


def _sample_step(recipe: Recipe, last: StageStep) -> FileStep[SampleAt]:
    """Step of images by the last stage's model, of its largest target."""
    config = last.config
    part, tokens = max(zip(config.stage.parts, config.sources, strict=True), key=lambda pair: pair[0].target)
    best_of = recipe.sample.best_of
    judge = identity_of([judge_of(best_of)]) if best_of else None
    drawn = SampleAt(target=part.target, sample=recipe.sample, tokenize=config.tokenize, judge=judge)
    source = next(given for given in last.inputs if given.name == tokens)
    text = text_of_stage(last)
    inputs = (last, text) if text is source else (last, text, source)
    # 2: streams of random draws (utils/random_streams.py). 3: the recipe's own prompt template.
    own = T2I in config.tokenize.prompts or not config.tokenize.size_in_prompt
    version = "3" if own else "2"
    return FileStep(StepKind.SAMPLE.value, drawn, version, inputs, make=make_samples, shows_rows=True)


def make_samples(context: StepContext[SampleAt]) -> dict[str, int]:
    """Generate the recipe's samples; none where the codec has no decoder."""
    corpus, config = context.corpus, context.config
    trained, text, *others = context.step.inputs
    (tokens,) = others or (text,)  # a pinned version has both
    files = token_files(corpus, tokens)
    sizes = config.sample.sizes or sample_grid.default_sizes(config.target)
    takes = worker_takes(trained, context.run)
    drawing = sample_work.Drawing(
        store=corpus.store,
        model=f"{file_folder(corpus, trained)}/{MODEL_EMA if config.sample.ema else MODEL}",
        text=text_content(corpus, text),
        sample=config.sample,
        tokenize=config.tokenize,
        sizes=sizes,
        sequences={bucket_name(*size): _sequences(corpus, files, size) for size in sizes},
        threads=takes.threads,
        gpu=context.run.use_gpu,
    )
    if drawing.gpu:
        context.progress.counted(Workers(1, takes.cpus, takes.gpus))
        found = on_a_gpu(context.run, takes, sample_work.draw, drawing)
    else:
        found = sample_work.draw(drawing)
    if found is None:
        return {"images": 0}
    _, profile = text_of(config.tokenize, drawing.text)
    asked = sample_grid.image_requests(config.sample, sizes)
    return sample_grid.write_samples(
        context.folder, asked, found.images, found.real, config.sample, profile.downsample, found.of_suite
    )


def _sequences(corpus: Corpus, files: list[DataFile], size: tuple[int, int]) -> list[list[int]]:
    """Some token sequences of one bucket."""
    names = [f.name for f in files if bucket_name(*size) in f.partition]
    if not names:
        return []
    rows = corpus.dataset(names).head(sample_grid.REAL_IMAGES, columns=["input_ids"])
    found: list[list[int]] = rows["input_ids"].to_pylist()
    return found


def write_report(context: StepContext[Report]) -> dict[str, int]:
    """Write the page that shows all the steps."""
    from rasterloom.report.report_page import ReportInputs, build_report  # heavy

    corpus, step = context.corpus, context.step
    states = [status(corpus, given) for given in step.inputs]
    folders = {
        s.step.name: shown_folder(corpus, s.step.name, s.step.fingerprint)
        for s in states
        if s.step.kind in (StepKind.TRAIN, StepKind.SAMPLE)
    }
    tables = {table for s in states if (table := table_of(s.step))}
    snapshots = {table: corpus.snapshot_id(table) for table in sorted(tables)}
    decode, note = _decoder(context)
    build_report(
        ReportInputs(
            corpus=corpus,
            snapshots={table: snapshot for table, snapshot in snapshots.items() if snapshot is not None},
            records=tuple(s.record for s in states if s.record),
            stages=tuple((StepKind.part(n), f) for n, f in folders.items() if StepKind.part(n)),
            samples=folders.get(StepKind.SAMPLE),
            decode=decode,
            codec_note=note,
            crop=_cropper(step),
            recipe_text=yaml.safe_dump(context.config.recipe, sort_keys=False, allow_unicode=True),
        ),
        context.folder,
    )
    return {}


NO_DECODER = (
    "The weights of the codec {codec} hold its encoder alone, so that neither what it keeps of images nor "
    "samples of a model can be shown. Meta's vqgan.ckpt and diffusers' folders hold the decoder too."
)


def _device(run: Run) -> str | None:
    """Device of a codec in the driver; None: a GPU if there is one."""
    return None if run.use_gpu else "cpu"


def _decoder(context: StepContext[Report]) -> tuple[Callable[[list[int]], Image.Image] | None, str]:
    """Function from a token sequence to its image; or None, and why."""
    from rasterloom.tokenize.codecs.load import codec_of  # heavy

    config = _tokenized(context.step)
    codec = codec_of(config, _device(context.run))
    if not codec.can_decode:
        return None, NO_DECODER.format(codec=config.codec)
    _, profile = token_work.load_text(context.corpus.store, context.inputs["text"][0].name, config)

    def decode(ids: list[int]) -> Image.Image:
        return sample_grid.image_of(codec, profile, ids)

    return decode, ""


def _tokenized(report: Step) -> Tokenize:
    """Tokenization of the images that a report shows."""
    configs = map(config_of, report.inputs)
    return next(config for config in configs if isinstance(config, token_work.TokenizeAt)).tokenize


def _cropper(step: Step) -> Callable[[Image.Image, str, int], Image.Image]:
    """Function from a stored image, its key and target to its crop."""

    config = _tokenized(step)

    def crop(image: Image.Image, key: str, target: int) -> Image.Image:
        return crop_as_coded(image, key, 0, config, target)[0]

    return crop
