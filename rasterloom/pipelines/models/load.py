"""Models of a recipe, with what it takes to use one: text encoder, ids, codec."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.step import Step
from rasterloom.pipelines.training.stage_step import TrainAt, checkpoint_store
from rasterloom.pipelines.workflow import workflow
from rasterloom.pipelines.workspace.status import file_folder, local_folder, scratch_folder, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import Profile
from rasterloom.train.job import PROFILE_FILE
from rasterloom.utils.private_folders import remove_old
from rasterloom.versions.corpus import Corpus

LATEST = "latest"  # in place of an optimizer step: the newest checkpoint


@dataclass(frozen=True)
class Trained:
    """A trained model."""

    name: str  # the stage's, as ``2-768``, or the folder
    model: Path
    target: int  # resolution
    step: Step | None = None  # that made it, if it is a stage's
    at: int | None = None  # the optimizer step in the middle of the stage; None: its end

    @property
    def label(self) -> str:
        """The name, and the optimizer step if it is not the end."""
        return self.name if self.at is None else f"{self.name} step {self.at}"


@dataclass(frozen=True)
class Language:
    """What a corpus's sequences are written in."""

    text: Any  # a TextEncoder
    profile: Profile


def stage_steps(recipe: Recipe) -> list[Step]:
    """The training steps of a recipe, in order."""
    return [step for step in workflow(recipe) if step.name.startswith("train/")]


def trained_of(recipe: Recipe, number: int | None = None) -> Trained:
    """The checkpoint that a stage ended with; of the last stage that is done, if none is named.

    Args:
        number: of the stage, from 1.

    Raises:
        RecipeError: there is no such stage, or it is not done.
    """
    corpus, asked = Corpus.of(recipe), _asked(recipe, number)
    done = [step for step in asked if status(corpus, step).done]
    if not done:
        which = "no stage is" if number is None else f"stage {number} is not"
        raise RecipeError(f"{which} trained yet: rasterloom run RECIPE --until {asked[0].name}")
    step = done[-1]
    return Trained(
        step.name.removeprefix("train/"), local_folder(corpus, step) / "model", target_of(step), step
    )


def trained_at(recipe: Recipe, number: int | None, asked: str, language: Language) -> Trained:
    """The model of a checkpoint within a stage, written to a folder of this machine if it is not there yet.

    Args:
        number: of the stage, from 1; None: the last that has checkpoints.
        asked: the checkpoint's optimizer step, or `LATEST`.

    Raises:
        RecipeError: there is no such stage or checkpoint, or it cannot be read.
    """
    from rasterloom.train.checkpoint.export import export_checkpoint
    from rasterloom.train.checkpoint.saver import complete

    corpus, stages = Corpus.of(recipe), _asked(recipe, number)
    for step in reversed(stages):
        store = checkpoint_store(corpus, step)
        there = {one.position.step: one for one in complete(store, None)}
        if there:
            break
    else:
        raise RecipeError(
            f"--step {asked}: {', '.join(one.name for one in stages)} has no checkpoint yet: "
            "rasterloom train RECIPE"
        )
    at = max(there) if asked == LATEST else int(asked) if asked.isdecimal() else None
    if at not in there:
        steps = ", ".join(str(one) for one in sorted(there))
        raise RecipeError(
            f"--step {asked}: {step.name} has no such checkpoint; there are {steps}, and {LATEST} "
            "(train.keep_checkpoints says how many stay)"
        )
    config = step.config
    assert isinstance(config, TrainAt)
    folder = scratch_folder(step, f"-{there[at].name}")
    lora = config.train.model.lora
    try:
        export_checkpoint(store, there[at], language.profile, folder, lora=lora)
        os.utime(folder)  # it is in use
        remove_old(folder.parent)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"--step {at}: {step.name}: the checkpoint cannot be read: {reason}") from None
    return Trained(step.name.removeprefix("train/"), folder, target_of(step), step, at)


def _asked(recipe: Recipe, number: int | None) -> list[Step]:
    """The stage of a number, or all of them."""
    stages = stage_steps(recipe)
    if not stages:
        raise RecipeError("the recipe trains nothing: it has no train section; --model takes any checkpoint")
    if number is not None and not 1 <= number <= len(stages):
        raise RecipeError(f"--stage {number}: the recipe has stages 1 to {len(stages)}")
    return stages if number is None else [stages[number - 1]]


def model_at(recipe: Recipe, folder: Path, language: Language) -> Trained:
    """A checkpoint in a folder, to be used with a recipe's codec, text and last target.

    Raises:
        RecipeError: there is none, or its sequences are written in other ids.
    """
    if not (folder / "config.json").is_file():
        raise RecipeError(f"--model: no checkpoint at {folder} (expected a config.json there)")
    known = folder / PROFILE_FILE  # plain checkpoints have none
    if known.is_file() and json.loads(known.read_text()) != json.loads(json.dumps(asdict(language.profile))):
        raise RecipeError(
            f"--model: {folder} was trained on ids that are not those of the corpus {recipe.corpus}"
        )
    stages = recipe.train.stages if recipe.train else ()
    target = target_of(stage_steps(recipe)[-1]) if stages else recipe.tokenize.targets[-1]
    return Trained(str(folder), folder, target)


def target_of(stage: Step) -> int:
    """The resolution of a training step: the highest that it reads tokens of."""
    config = stage.config
    assert isinstance(config, TrainAt)
    return max(part.target for part in config.stage.parts)


def language_of(recipe: Recipe) -> Language:
    """Text encoder and ids of a recipe. Raises RecipeError if its text vocabulary is not made yet."""
    corpus = Corpus.of(recipe)
    (text,) = (step for step in workflow(recipe) if step.name == "text")
    if not status(corpus, text).done:
        raise RecipeError("the text vocabulary is not made yet: rasterloom run RECIPE --until text")
    name = f"{file_folder(corpus, text)}/tokenizer.json"
    return Language(*token_work.load_text(corpus.store, name, recipe.tokenize))


def codec_or_none(recipe: Recipe) -> Any:
    """The recipe's codec; None where its weights hold no decoder. RecipeError if they cannot be used."""
    from rasterloom.tokenize.codecs.load import codec_of

    try:
        codec = codec_of(recipe.tokenize, None if recipe.run.use_gpu else "cpu")
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return codec if codec.can_decode else None


def decoder_of(recipe: Recipe) -> Any:
    """The recipe's codec. Raises RecipeError if its weights cannot be used, or hold no decoder."""
    codec = codec_or_none(recipe)
    if codec is None:
        raise RecipeError(
            f"the weights of the codec {recipe.tokenize.codec} hold no decoder (docs/codecs.md)"
        )
    return codec


def sizes_of(target: int, asked: Sequence[str]) -> list[tuple[int, int]]:
    """Buckets of a target by their names, as ``768x512``; the square where none is named.

    Raises:
        RecipeError: one is no size, or none of the target's; the nearest that is one is named.
    """
    from rasterloom.tokenize.buckets import bucket_sizes, choose_bucket

    buckets, sizes = bucket_sizes(target), []
    for name in asked:
        width, _, height = name.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise RecipeError(f"--size takes WIDTHxHEIGHT in pixels, as {target}x{target} (got {name})")
        size = int(width), int(height)
        if size not in buckets:
            near = "{}x{}".format(*choose_bucket(size, buckets))
            raise RecipeError(f"--size {name} is no bucket of target {target}; the nearest is {near}")
        sizes.append(size)
    return sizes or [(target, target)]
