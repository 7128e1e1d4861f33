"""Passes of a model for an image, by the window.

python benchmarks/bench_window.py RECIPE [--model FOLDER] [--windows 2 4 8 16 32] [--prompts 24]

Draws prompts of the suite of scenes at the settings of the recipe, one image at a time: code by code, then
with each window. The share of images that the judge finds all right is beside it, since the distribution is
the same. Its interval is Wilson's, of 95 %.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from rasterloom.filtering.judges.prompts import SCENES, load_prompts
from rasterloom.filtering.scenes.judge import judge
from rasterloom.pipelines.models.load import ModelChoice, load_model, text_codec_of
from rasterloom.pipelines.training.sample_grid import ImageRequest, draw
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.tokenize.codecs.load import codec_of
from rasterloom.train.sampling.sampler import open_sampler
from rasterloom.utils.intervals import wilson


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("recipe", type=Path)
    arguments.add_argument("--model", type=Path, help="a checkpoint's folder, else the last stage's")
    arguments.add_argument("--windows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    arguments.add_argument("--prompts", type=int, default=24)
    options = arguments.parse_args()
    recipe = load_recipe(options.recipe)
    workflow = Workflow(recipe)
    text = text_codec_of(workflow)
    model = load_model(workflow, ModelChoice(folder=options.model), text)
    gpu = recipe.run.use_gpu
    sampler = open_sampler(model.model, text.profile, "cuda" if gpu else "cpu", bf16=gpu)
    sampler.batch = 1
    codec = codec_of(recipe.tokenize)
    prompts = [prompt.text for prompt in load_prompts(SCENES)]
    prompts = prompts[:: max(1, len(prompts) // options.prompts)][: options.prompts]
    side = recipe.tokenize.targets[-1]
    asked = [ImageRequest(prompt, side, side) for prompt in prompts]
    settings = SamplingConfig.model_validate(recipe.sample.model_dump() | {"best_of": None})
    codes = (side // codec.downsample) ** 2
    Console().print(f"{len(asked)} images of {codes} codes, guidance {settings.cfg}, top {settings.top_k}\n")
    print("| window | passes an image | times fewer | images/s | all right |\n|---|---|---|---|---|")
    plain = 0.0
    for window in options.windows:
        sampler.window, sampler.passes = window, 0
        began = time.perf_counter()
        images = draw(sampler, text.text, codec, asked, settings, recipe.tokenize)
        took = time.perf_counter() - began
        right = sum(bool(judge(np.asarray(i), p).all_right) for i, p in zip(images, prompts, strict=True))
        low, high = wilson(right, len(asked))
        passes = sampler.passes / len(asked)
        plain = plain or passes
        share = f"{right / len(asked):.0%} ({low:.0%} to {high:.0%})"
        print(
            f"| {window} | {passes:.0f} | {plain / passes:.1f} | {len(asked) / took:.2f} | {share} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
