"""The workflow after the corpus: train stage by stage, draw samples, write the report."""

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from pydantic import Field

from rasterloom.pipelines import drawings, sampling, token_work
from rasterloom.pipelines.progress import Progress
from rasterloom.pipelines.state import local_folder, status
from rasterloom.pipelines.step import FileStep, Inputs, ShardStep, Step
from rasterloom.recipe import Recipe, Run, Sample, Section, Stage, Tokenize, Train
from rasterloom.schema import bucket_name
from rasterloom.versions.tables import Corpus, DataFile


class TrainAt(Section):
    """One stage, with what all stages share."""

    stage: Stage
    train: Train
    tokenize: token_work.AnyPlace
    sample: Sample = Field(Sample(), exclude=True)
    """What is drawn on the way; it changes nothing in the stage."""


class SampleAt(Section):
    """What to draw, for a model of one target."""

    target: int
    sample: Sample
    tokenize: token_work.AnyPlace


class Report(Section):
    """What the report shows beside the other steps."""

    recipe: dict[str, Any]


def training_steps(recipe: Recipe, corpus: list[Step]) -> list[Step]:
    """The steps from tokens to report; the report alone if the recipe does not train."""
    by_name = {step.name: step for step in corpus}
    stages: list[Step] = []
    samples: list[Step] = []
    for number, stage in enumerate(recipe.train.stages if recipe.train else (), start=1):
        assert recipe.train
        tokens = by_name[f"tokens/{stage.target}"]
        shared = recipe.train.model_copy(update={"stages": (stage,)})
        config = TrainAt(stage=stage, train=shared, tokenize=_tokenize(tokens), sample=recipe.sample)
        name = f"train/{number}-{stage.target}"
        given = (tokens, by_name["text"], by_name[f"lengths/{stage.target}"], *stages[-1:])
        stages.append(FileStep(name, config, "1", given, make=train_stage, resumes=True))
        if number == len(recipe.train.stages):
            drawn = SampleAt(target=stage.target, sample=recipe.sample, tokenize=_tokenize(tokens))
            samples.append(
                FileStep("sample", drawn, "1", (stages[-1], by_name["text"], tokens), make=make_samples)
            )
    shown = (*corpus, *stages, *samples)
    told = Report(
        recipe=json.loads(recipe.model_dump_json(exclude={"run", "catalog"}, exclude_defaults=True))
    )
    return [*stages, *samples, FileStep("report", told, "1", shown, make=write_report)]


def _tokenize(tokens: Step) -> Tokenize:
    """The recipe's section as the tokens of one target know it: further targets change nothing."""
    assert isinstance(tokens.config, token_work.TokenizeAt)
    return tokens.config.tokenize


def train_stage(
    corpus: Corpus, inputs: Inputs, step: FileStep, folder: Path, run: Run, progress: Progress
) -> dict[str, int]:
    """Train one stage; its folder holds the model, the metrics and the checkpoints to go on from."""
    from rasterloom.train import ray_train
    from rasterloom.train.job import StageJob

    config = step.config
    assert isinstance(config, TrainAt)
    tokens, text, lengths, *before = step.inputs
    (index,) = inputs[lengths.name]
    encoder, profile = token_work.load_text(corpus.store, inputs[text.name][0].name, config.tokenize)
    pictures = _pictures(config, folder)
    side = target_of(step)
    job = StageJob(
        stage=config.stage,
        train=config.train,
        profile=profile,
        token_files=tuple(corpus.store.path(file.name) for file in inputs[tokens.name]),
        filesystem=corpus.store.filesystem if corpus.store.is_s3 else None,
        tokens_snapshot=str(status(corpus, tokens).snapshot_id),
        token_index=corpus.store.path(index.name),
        init=str(local_folder(corpus, before[0]) / "model") if before else config.train.init,
        out_dir=str(folder),
        workers=run.train_workers,
        use_gpu=run.use_gpu,
        drawing=drawings.drawing_of(config.sample, (side, side), encoder, profile) if pictures else None,
    )

    def show(row: dict[str, Any]) -> None:
        _show(progress, row)
        if pictures:
            pictures.update()

    result = ray_train.train_stage(job, show)
    if pictures:
        pictures.update()
    return {"steps": result.steps, "tokens": result.tokens}


def target_of(stage: Step) -> int:
    """The resolution of a training step: the highest that it reads tokens of."""
    return max(
        int(name) for step in stage.inputs for kind, _, name in [step.name.partition("/")] if kind == "tokens"
    )


def _pictures(config: TrainAt, folder: Path) -> drawings.Pictures | None:
    """What decodes the pictures that are drawn on the way; None if there are to be none."""
    from rasterloom.tokenize.codecs import codec_of

    if not config.train.sample_every or not config.sample.prompts:
        return None
    codec = codec_of(config.tokenize, "cpu")  # the GPUs are busy
    return drawings.Pictures(folder, codec, config.train) if codec.can_decode else None


def _show(progress: Progress, row: dict[str, Any]) -> None:
    note = f"loss {row['loss']:.3f}, {row['tokens_per_s']:,.0f} tokens/s"
    progress.update(row["step"], note, total=row["total"])


def make_samples(
    corpus: Corpus, inputs: Inputs, step: FileStep, folder: Path, run: Run, progress: Progress
) -> dict[str, int]:
    """Draw what the recipe asks for with the last checkpoint; nothing where the codec has no decoder."""
    from rasterloom.tokenize.codecs import codec_of

    config = step.config
    assert isinstance(config, SampleAt)
    trained, text, tokens = step.inputs
    model = local_folder(corpus, trained) / "model"
    codec = codec_of(config.tokenize, _device(run))
    if not codec.can_decode:
        return {"pictures": 0}
    encoder, profile = token_work.load_text(corpus.store, inputs[text.name][0].name, config.tokenize)
    sizes = config.sample.sizes or sampling.default_sizes(config.target)
    asked = sampling.asked_of(config.sample, sizes)
    images = sampling.draw(model, profile, encoder, codec, asked, config.sample)
    real = {
        bucket_name(*size): sampling.pictures_of(
            codec, profile, _sequences(corpus, inputs[tokens.name], size)
        )
        for size in sizes
    }
    return sampling.write_samples(folder, asked, images, real, config.sample, profile.downsample)


def _sequences(corpus: Corpus, files: list[DataFile], size: tuple[int, int]) -> list[list[int]]:
    """Some token sequences of one bucket."""
    names = [f.name for f in files if bucket_name(*size) in f.partition]
    if not names:
        return []
    rows = corpus.dataset(names).head(sampling.REAL_PICTURES, columns=["input_ids"])
    found: list[list[int]] = rows["input_ids"].to_pylist()
    return found


def write_report(
    corpus: Corpus, inputs: Inputs, step: FileStep, folder: Path, run: Run, progress: Progress
) -> dict[str, int]:
    """Write the page that shows all the steps."""
    from rasterloom.report.page import ReportInputs, build_report

    assert isinstance(step.config, Report)
    states = [status(corpus, given) for given in step.inputs]
    folders = {s.step.name: local_folder(corpus, s.step) for s in states if isinstance(s.step, FileStep)}
    tables = {s.step.table for s in states if isinstance(s.step, ShardStep) and s.step.table}
    snapshots = {table: corpus.snapshot_id(table) for table in sorted(tables)}
    decode, note = _decoder(corpus, step, inputs, run)
    build_report(
        ReportInputs(
            corpus=corpus,
            snapshots={table: snapshot for table, snapshot in snapshots.items() if snapshot is not None},
            records=tuple(s.record for s in states if s.record),
            stages=tuple((n.removeprefix("train/"), f) for n, f in folders.items() if n.startswith("train/")),
            samples=folders.get("sample"),
            decode=decode,
            codec_note=note,
            crop=_cropper(step),
            recipe_text=yaml.safe_dump(step.config.recipe, sort_keys=False, allow_unicode=True),
        ),
        folder,
    )
    return {}


NO_DECODER = (
    "The weights of the codec {codec} hold its encoder alone, so that neither what it keeps of pictures nor "
    "samples of a model can be shown. Meta's vqgan.ckpt and diffusers' folders hold the decoder too."
)


def _device(run: Run) -> str | None:
    """Where a codec runs in the driver: on a GPU, if there is one and the recipe has them used."""
    return None if run.use_gpu else "cpu"


def _decoder(corpus: Corpus, step: Step, inputs: Inputs, run: Run) -> tuple[Any, str]:
    """A function from a token sequence to its picture, for the report; or None, and why there is none."""
    from rasterloom.tokenize.codecs import codec_of

    config = next(s.config for s in step.inputs if isinstance(s.config, token_work.TokenizeAt)).tokenize
    codec = codec_of(config, _device(run))
    if not codec.can_decode:
        return None, NO_DECODER.format(codec=config.codec)
    _, profile = token_work.load_text(corpus.store, inputs["text"][0].name, config)

    def decode(ids: list[int]) -> Image.Image:
        return sampling.picture_of(codec, profile, ids)

    return decode, ""


def _cropper(step: Step) -> Any:
    """A function from a stored picture, its key and a target to the crop that was coded."""
    from rasterloom.tokenize.buckets import bucket_sizes
    from rasterloom.tokenize.crop import apply_crop, plan_crop
    from rasterloom.tokenize.limits import crop_seed

    config = next(s.config for s in step.inputs if isinstance(s.config, token_work.TokenizeAt)).tokenize

    def crop(picture: Image.Image, key: str, target: int) -> Image.Image:
        plan = plan_crop(picture.size, bucket_sizes(target), seed=crop_seed(key, config))
        return apply_crop(picture, plan)

    return crop
