"""Trained models of a recipe, with text encoder and codec."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rasterloom.errors import RecipeError, one_line
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.step import HasResult
from rasterloom.pipelines.training.model_vocabulary import check_vocabulary, profile_record, vocabulary_of
from rasterloom.pipelines.training.stage_step import StageStep, checkpoint_store
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import local_folder, scratch_folder
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import Profile, StepKind
from rasterloom.storage.layout import MODEL, MODEL_EMA, PROFILE
from rasterloom.tokenize.buckets import bucket_sizes, choose_bucket
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.codecs.load import codec_of
from rasterloom.tokenize.text_tokenizer import JsonText
from rasterloom.utils.private_folders import remove_old

LATEST = "latest"  # in place of an optimizer step: the newest checkpoint


@dataclass(frozen=True)
class TrainedModel:
    """Model folder with the stage that it is of."""

    name: str  # the stage's, as ``2-768``, or the folder
    model: Path
    target: int  # resolution
    step: HasResult | None = None  # that made it, if it is a stage's
    at: int | None = None  # the optimizer step in the middle of the stage; None: its end
    is_average: bool = False  # of the weights, in place of them (train.ema)

    @property
    def label(self) -> str:
        """The name, and the optimizer step if it is not the end."""
        name = self.name if self.at is None else f"{self.name} step {self.at}"
        return f"{name} ema" if self.is_average else name


@dataclass(frozen=True)
class TextCodec:
    """Text encoder and vocabulary layout of a corpus's sequences."""

    text: JsonText
    profile: Profile


@dataclass(frozen=True)
class ModelChoice:
    """Model to use: a stage's, one of its checkpoints, or a folder's."""

    stage: int | None = None  # from 1; None: the last that is done
    step: str | None = None  # optimizer step, or `LATEST`; None: the stage's end
    folder: Path | None = None
    average: bool = False  # of the weights, in place of them

    def check(self) -> None:
        """Raise RecipeError if a folder is chosen and a stage, too."""
        if self.folder and (self.stage or self.step):
            raise RecipeError(hint="give either {stage} or {model}")
        if self.folder and self.average:
            raise RecipeError("is of a stage", field="ema", hint="give the folder model_ema as {model}")


def choices_of(
    stages: Sequence[int], steps: Sequence[str], folders: Sequence[Path], *, averages: bool = False
) -> tuple[ModelChoice, ...]:
    """Models in the order to measure them: of stages or of one stage's checkpoints, then of folders.

    Args:
        averages: put the average of each stage's weights behind these.

    Raises:
        RecipeError: checkpoints of several stages are chosen.
    """
    if steps and len(stages) > 1:
        raise RecipeError("takes the checkpoints of one stage", field="step", hint="give one {stage}")
    if steps:
        chosen = [ModelChoice(stages[0] if stages else None, step) for step in steps]
    else:
        chosen = [ModelChoice(number) for number in stages]
        chosen += [] if stages or folders else [ModelChoice()]
    if averages:
        chosen = [one for weights in chosen for one in (weights, replace(weights, average=True))]
    return (*chosen, *(ModelChoice(folder=folder) for folder in folders))


def load_model(workflow: Workflow, choice: ModelChoice, text_codec: TextCodec) -> TrainedModel:
    """Find the chosen model.

    Raises:
        RecipeError: there is none, or no average, it cannot be read, or it does not fit the corpus.
    """
    train = workflow.recipe.train
    if choice.average and (train is None or train.ema is None):
        raise RecipeError("there is no average of weights", field="ema", hint="set train.ema, and train")
    if choice.folder:
        return model_in_folder(workflow, choice.folder, text_codec)
    if choice.step:
        return model_at_step(workflow, choice, choice.step, text_codec)
    return model_of_stage(workflow, choice.stage, average=choice.average)


def model_of_stage(workflow: Workflow, number: int | None = None, *, average: bool = False) -> TrainedModel:
    """Final model of a stage. By default of the last stage that is done.

    Args:
        number: of the stage, from 1.
        average: of the weights, in place of them.

    Raises:
        RecipeError: there is no such stage, or it is not done.
    """
    corpus, asked = workflow.corpus, _asked(workflow, number)
    done = [step for step in asked if workflow.status(step).done]
    if not done:
        which = "no stage is" if number is None else f"stage {number} is not"
        raise RecipeError(f"{which} trained yet", needs=asked[0].name)
    step = done[-1]
    folder = local_folder(corpus, step) / (MODEL_EMA if average else MODEL)
    return TrainedModel(step.part, folder, target_of(step), step, is_average=average)


def model_at_step(workflow: Workflow, choice: ModelChoice, asked: str, text_codec: TextCodec) -> TrainedModel:
    """Model of a checkpoint within a stage, exported on first use.

    Args:
        choice: its stage; without a number, the last that has checkpoints.
        asked: the checkpoint's optimizer step, or `LATEST`.

    Raises:
        RecipeError: there is no such stage or checkpoint, or it cannot be read.
    """
    from rasterloom.train.checkpoint.export import export_checkpoint  # heavy
    from rasterloom.train.checkpoint.saver import complete  # heavy

    corpus, stages, average = workflow.corpus, _asked(workflow, choice.stage), choice.average
    for step in reversed(stages):
        store = checkpoint_store(corpus, step)
        there = {one.position.step: one for one in complete(store, None)}
        if there:
            break
    else:
        names = ", ".join(one.name for one in stages)
        raise RecipeError(
            f"{names} has no checkpoint yet", field="step", value=asked, hint="train the recipe first"
        )
    at = max(there) if asked == LATEST else int(asked) if asked.isdecimal() else None
    if at not in there:
        steps = ", ".join(str(one) for one in sorted(there))
        raise RecipeError(
            f"{step.name} has no such checkpoint; there are {steps}, and {LATEST} "
            "(train.keep_checkpoints sets how many are kept)",
            field="step",
            value=asked,
        )
    folder = scratch_folder(step, f"-{there[at].name}{'-ema' * average}")
    lora = step.config.train.model.lora
    try:
        profile, vocabulary = text_codec.profile, vocabulary_of(text_codec.text)
        export_checkpoint(
            store, there[at], profile, folder, lora=lora, vocabulary=vocabulary, average=average
        )
        os.utime(folder)  # it is in use
        remove_old(folder.parent)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        message = f"{step.name}: the checkpoint cannot be read: {reason}"
        raise RecipeError(message, field="step", value=at) from None
    return TrainedModel(step.part, folder, target_of(step), step, at, average)


def _asked(workflow: Workflow, number: int | None) -> list[StageStep]:
    """The stage of a number, or all of them."""
    stages = workflow.stages
    if not stages:
        raise RecipeError("the recipe has no train section", hint="{model} takes any checkpoint")
    if number is not None and not 1 <= number <= len(stages):
        raise RecipeError(f"the recipe has stages 1 to {len(stages)}", field="stage", value=number)
    return stages if number is None else [stages[number - 1]]


def model_in_folder(workflow: Workflow, folder: Path, text_codec: TextCodec) -> TrainedModel:
    """Model in a folder, for a recipe's codec and text.

    Raises:
        RecipeError: there is none, or its sequences are written in other ids.
    """
    if not (folder / "config.json").is_file():
        raise RecipeError("no checkpoint there (expected a config.json)", field="model", value=folder)
    if (folder / PROFILE).is_file():  # plain checkpoints have none
        about, ours = profile_record(folder), json.loads(json.dumps(asdict(text_codec.profile)))
        if {name: about.get(name) for name in ours} != ours:
            message = f"trained on ids that are not those of the corpus {workflow.recipe.corpus}"
            raise RecipeError(message, field="model", value=folder)
    check_vocabulary(folder, text_codec.text, field="model")
    recipe = workflow.recipe
    target = target_of(workflow.stages[-1]) if recipe.train else recipe.tokenize.targets[-1]
    return TrainedModel(str(folder), folder, target)


def target_of(stage: StageStep) -> int:
    """Highest resolution of the tokens that a training step reads."""
    config = stage.config
    return max(part.target for part in config.stage.parts)


def text_codec_of(workflow: Workflow) -> TextCodec:
    """Return a recipe's text codec. RecipeError if its text vocabulary is not made yet."""
    corpus, text = workflow.corpus, workflow.step(StepKind.TEXT)
    if not workflow.status(text).done:
        raise RecipeError("the text vocabulary is not made yet", needs="text")
    name = corpus.layout.text(text.fingerprint)
    return TextCodec(*token_work.load_text(corpus.store, name, workflow.recipe.tokenize))


def codec_or_none(recipe: Recipe) -> Codec | None:
    """Return the recipe's codec, or None if it cannot decode. Raises RecipeError if it cannot be loaded."""
    try:
        codec = codec_of(recipe.tokenize, None if recipe.run.use_gpu else "cpu")
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return codec if codec.can_decode else None


def decoder_of(recipe: Recipe) -> Codec:
    """Return the recipe's codec. Raises RecipeError if it cannot be loaded or cannot decode."""
    codec = codec_or_none(recipe)
    if codec is None:
        raise RecipeError(
            f"the weights of the codec {recipe.tokenize.codec} hold no decoder (docs/codecs.md)"
        )
    return codec


def sizes_of(target: int, asked: Sequence[str]) -> list[tuple[int, int]]:
    """Parse sizes such as ``768x512``; the target's square where none is given.

    Raises:
        RecipeError: one is not a size, or not a bucket of the target.
    """
    buckets, sizes = bucket_sizes(target), []
    for name in asked:
        width, _, height = name.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            message = f"takes WIDTHxHEIGHT in pixels, as {target}x{target}"
            raise RecipeError(message, field="size", value=name)
        size = int(width), int(height)
        if size not in buckets:
            near = "{}x{}".format(*choose_bucket(size, buckets))
            message = f"no bucket of target {target}; the nearest is {near}"
            raise RecipeError(message, field="size", value=name)
        sizes.append(size)
    return sizes or [(target, target)]
