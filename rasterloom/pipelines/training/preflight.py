"""Checks of a recipe's training before anything starts."""

import os
from collections.abc import Callable
from pathlib import Path

from rasterloom.errors import RecipeError
from rasterloom.pipelines.execution.nodes import Nodes, in_words
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.step import FileStep, HasResult
from rasterloom.pipelines.training.earlier_stages import refuse_earlier
from rasterloom.pipelines.training.gpu_memory import memory_of, refuse_what_cannot_fit
from rasterloom.pipelines.training.model_vocabulary import check_vocabulary
from rasterloom.pipelines.training.stage_step import (
    StageStep,
    TrainAt,
    is_stage,
    missing_inputs,
    stage_before,
    stage_job,
    worker_needs,
    worker_takes,
)
from rasterloom.pipelines.training.steps import SampleAt
from rasterloom.pipelines.workspace.status import status, work_folder
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Train
from rasterloom.schema import Profile, StepKind
from rasterloom.tokenize.buckets import bucket_sizes, choose_bucket
from rasterloom.tokenize.grown_vocabulary import read_tokenizer
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.text_tokenizer import text_of
from rasterloom.tokenize.unirep import image_length
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.job import StageJob
from rasterloom.train.model.freeze import frozen
from rasterloom.train.model.shapes import (
    SIZES,
    check_init,
    first_new_id,
    is_language_model,
    parameter_shapes,
    shape_of,
)
from rasterloom.train.validate import check, check_settings
from rasterloom.versions.corpus import Corpus

NO_GPU = (
    "run.use_gpu is set, but {}: train with run.use_gpu: false, or name a cluster that has some as "
    + "run.ray_address"
)


def check_training(
    recipe: Recipe, steps: list[HasResult], say: Callable[[str], None] = lambda _: None
) -> None:
    """Check the training stages among some steps that are not done yet.

    What only the tokens tell is checked where they are there already; the stage looks again when its turn
    comes.

    Args:
        say: is told of stages that will wait for nodes.

    Raises:
        RecipeError: a stage cannot work; the message names the field and the way out.
    """
    if wrong := _no_captions(recipe, steps):
        raise RecipeError(wrong)
    corpus = Corpus.of(recipe)
    stages = [step for step in filter(is_stage, steps) if not status(corpus, step).done]
    longest = {}
    for stage in stages:
        refuse_earlier(corpus, stage)
        _check_settings(stage)
        known = not missing_inputs(corpus, stage)
        longest[stage.name] = (
            _check_tokens(corpus, stage, recipe.run) if known else longest_image(stage.config)
        )
    if stages:
        _check_cluster(recipe.run, stages, say)
    for stage in stages:
        held = memory_of(stage, recipe.run, profile_before_tokens(stage.config.tokenize), longest[stage.name])
        refuse_what_cannot_fit(stage, recipe.run, held)
    for step in (step for step in steps if isinstance(step, FileStep)):
        if isinstance(step.config, SampleAt) and not status(corpus, step).done:
            _check_sizes(step.config)


def refusals(recipe: Recipe, steps: list[HasResult]) -> list[str]:
    """List what `check_training` would refuse for the recipe's sake alone. Nothing is started."""
    corpus, found = Corpus.of(recipe), list(filter(None, [_no_captions(recipe, steps)]))
    for step in steps:
        if is_stage(step) and not status(corpus, step).done:
            try:
                refuse_earlier(corpus, step)
                _check_settings(step)
            except RecipeError as error:
                found.append(str(error))
    return list(dict.fromkeys(found))


def refuse(recipe: Recipe, steps: list[HasResult]) -> None:
    """Raise RecipeError with the sentences of `refusals`, if any."""
    if wrong := refusals(recipe, steps):
        raise RecipeError("\n".join(wrong))


def too_small_here(recipe: Recipe, steps: list[HasResult]) -> list[str]:
    """List what this machine lacks for the training. Of a cluster nothing is known."""
    run = recipe.run
    if on_cluster(run):
        return []
    if run.use_gpu:
        from rasterloom.train.devices import gpus  # heavy

        return [] if gpus() else [NO_GPU.format("there is no GPU here")]
    corpus, found = Corpus.of(recipe), []
    for step in steps:
        if is_stage(step) and not status(corpus, step).done:
            try:
                _check_room(step, run, _room_here(step, run))
            except RecipeError as error:
                found.append(str(error))
    return found


def _no_captions(recipe: Recipe, steps: list[HasResult]) -> str:
    """Say that no source has captions, if steps make sequences."""
    if (
        recipe.caption
        or not recipe.sources
        or any(source.has_captions or source.has_tasks for source in recipe.sources)
    ):
        return ""
    if not any(step.kind is StepKind.CODES for step in steps):
        return ""
    return "sources: none has captions, and a sequence needs one: name some, or run until the step selection"


def _check_sizes(config: SampleAt) -> None:
    """Check that samples have sizes that the model was trained on."""
    suite, buckets = config.sample.suite, bucket_sizes(config.target)
    asked = [("sample.sizes", size) for size in config.sample.sizes]
    asked += [("sample.suite.size", suite.size)] if suite else []
    for field, (width, height) in asked:
        if (width, height) not in buckets:
            near = "[{}, {}]".format(*choose_bucket((width, height), buckets))
            message = f"no bucket of target {config.target}; the nearest is {near}"
            raise RecipeError(message, field=field, value=f"[{width}, {height}]")


def _check_settings(step: StageStep) -> None:
    """Check what the recipe alone says: initial weights, parameter names, batch sizes."""

    config = step.config
    try:
        check_settings(config.train)
        profile = profile_before_tokens(config.tokenize)
        if stage_before(step) is None:
            check_init(config.train.init)
            _check_vocabulary(config)
            _check_language_model(config.train.init, profile)
            _check_lora(config.train, profile)
        shape = shape_of(config.train.init, profile.vocab_size)
        if shape.vocab < profile.vocab_size:
            raise ValueError(
                f"the checkpoint {config.train.init} has a vocabulary of {shape.vocab}, but the tokens are "
                f"of profile {profile.name!r} with {profile.vocab_size}: take another train.init, or the "
                "codec and text vocabulary that the checkpoint was trained on (tokenize)"
            )
        frozen(parameter_shapes(shape, config.train.model.lora), config.stage.freeze)
    except ValueError as error:
        raise RecipeError(f"{step.name}: {error}") from None
    for part in config.stage.parts:
        if part.tasks and "t2i" not in part.tasks:
            continue  # rows of other tasks may have smaller images, or none
        smallest = min(image_length(*size, profile) for size in bucket_sizes(part.target))
        for field, most in _limits(config.train):
            if most is not None and most < smallest:
                raise RecipeError(
                    f"{step.name}: {field} is {most}, but an image of target {part.target} alone has at "
                    f"least {smallest} tokens"
                )


def _check_vocabulary(config: TrainAt) -> None:
    """Check initial weights against the text vocabulary that the recipe names."""
    init, given = config.train.init, config.tokenize.text
    if init not in SIZES and given is not None:
        text, _ = text_of(config.tokenize, read_tokenizer(given, config.tokenize.codec))
        check_vocabulary(Path(init), text, field="train.init")


def _check_language_model(init: str, profile: Profile) -> None:
    """Check that a language model can be trained on the tokens, packed."""
    if init not in SIZES and is_language_model(init):
        from rasterloom.train.model.packing_check import check_packing  # heavy

        first_new_id(init, profile)
        check_packing(init)


def _check_lora(train: Train, profile: Profile) -> None:
    """Check that adapters leave no new row of the vocabulary untrained."""
    if train.model.lora is not None:
        from rasterloom.train.model.packed_lm import check_lora  # heavy

        check_lora(train.init, profile, train)


def _limits(train: Train) -> list[tuple[str, int | None]]:
    return [
        ("batch_tokens", train.stages[0].batch_tokens),
        ("train.micro_batch_tokens", train.tokens_at_once),
    ]


def profile_before_tokens(config: Tokenize) -> Profile:
    """Token ids of a recipe, as far as known before tokenization."""

    if config.text is None:
        return profile_of(config.codec, config.text_vocab)
    return text_of(config, read_tokenizer(config.text, config.codec))[1]


def longest_image(config: TrainAt) -> int:
    """Tokens of the longest image, before there are any."""
    profile = profile_before_tokens(config.tokenize)
    targets = [part.target for part in config.stage.parts]
    return max(image_length(*size, profile) for target in targets for size in bucket_sizes(target))


def _check_tokens(corpus: Corpus, step: StageStep, run: Run) -> int:
    """Check the tokens: text vocabulary, longest sample, number. Return the longest sequence's."""
    job = job_of(corpus, step, run)
    before = stage_before(step)
    try:
        if before is None or status(corpus, before).done:
            check(job)
        return int(open_stage(job).plan.lengths.max())
    except (ValueError, OSError) as error:
        raise RecipeError(f"{step.name}: {error}") from None


def job_of(corpus: Corpus, step: StageStep, run: Run) -> StageJob:
    """The job of a stage whose tokens exist, in its folder."""
    return stage_job(corpus, step, work_folder(corpus, step), run)


def _check_cluster(run: Run, stages: list[StageStep], say: Callable[[str], None]) -> None:
    """Check that Ray has the resources that each stage's workers ask for.

    A cluster may have an autoscaler, which brings nodes when the workers wait for them.
    """
    import ray  # heavy

    if not on_cluster(run) and not run.use_gpu:  # known before a Ray is started
        for step in stages:
            _check_room(step, run, _room_here(step, run))
    start_ray(run)
    if on_cluster(run) and run.node_wait_minutes:
        for step in stages:
            try:
                _check_room(step, run, _room(step, run))
            except RecipeError as error:
                wait = f"{run.node_wait_minutes:g} minutes (run.node_wait_minutes)"
                say(f"{error}. It will wait for nodes, at most {wait}")
        return
    if run.use_gpu and not ray.cluster_resources().get("GPU"):
        raise RecipeError(NO_GPU.format("Ray finds no GPU"))
    for step in stages:
        _check_room(step, run, _room(step, run))


def on_cluster(run: Run) -> bool:
    """True if Ray runs elsewhere already."""
    return bool(run.ray_address or os.environ.get("RAY_ADDRESS"))


def _room_here(step: StageStep, run: Run) -> int:
    return int((run.cpus or os.cpu_count() or 1) / worker_needs(step, run)["CPU"])


def _room(step: StageStep, run: Run) -> int:
    return Nodes(worker_needs(step, run)).slots(worker_takes(step, run).placement)


def _check_room(step: HasResult, run: Run, room: int) -> None:
    """Raise RecipeError if there is too little room for a stage's workers."""
    fewest = run.train_workers.min
    if fewest > room:
        raise RecipeError(
            f"{step.name}: run.train_workers asks for {fewest} workers of "
            f"{in_words(worker_needs(step, run))} each, but Ray has room for {room}: "
            "lower it, or what a worker takes (run.steps), name a larger cluster as run.ray_address"
            + ("" if run.use_gpu else ", or raise run.cpus")
        )
