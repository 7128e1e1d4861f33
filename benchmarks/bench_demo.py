"""Prompts that the quickstart's model draws right, for several seeds of training.

python benchmarks/bench_demo.py [--seeds 0 1 2] [--scenes 4000]

Runs examples/quickstart.yaml from the first step to the last, once for each seed of `train.seed`; all but the
first begin at the training. The judge is rasterloom.filtering.scenes, the prompts are those of the recipe's
suite, which no image of the corpus shows. The last column is the share of prompts of which one image at least
is right: the best of as many as the suite has seeds. Intervals are Wilson's, of 95 %.
"""

import argparse
import sys
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples/quickstart"))

from demo import site_of
from scenes import CENTRED
from server import serve
from website import build_site

from rasterloom.filtering.scenes.grammar import Caption, read_caption
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import result_files, run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe
from rasterloom.storage.layout import SUITE
from rasterloom.utils.intervals import wilson

RECIPE = Path(__file__).resolve().parent.parent / "examples/quickstart.yaml"
KINDS = ("one shape", "several", "relation", "all", "best of seeds")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--recipe", type=Path, default=RECIPE)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--scenes", type=int, default=4000)
    options = arguments.parse_args()
    recipe = load_recipe(options.recipe)
    folder, port = site_of(recipe)
    if not folder.exists():
        build_site(folder, options.scenes, port, CENTRED)
    print(f"{'seed':>4} {'seconds':>8} " + " ".join(f"{kind:>18}" for kind in KINDS))
    for seed in options.seeds:
        began = time.monotonic()
        found = right_of(with_seed(recipe, seed), folder, port)
        cells = " ".join(f"{share(*found[kind]):>18}" for kind in KINDS)
        print(f"{seed:>4} {time.monotonic() - began:>8.0f} {cells}", flush=True)


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    assert recipe.train is not None
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})


def right_of(recipe: Recipe, folder: Path, port: int) -> dict[str, tuple[int, int]]:
    """Run a recipe and count its judged images, by kind of prompt."""
    workflow = Workflow(recipe)
    fetches = any(p.runs and p.step.name == "images" for p in workflow.plan())
    with serve(folder, port) if fetches else nullcontext():
        run(workflow, None, Progress(Console(stderr=True)))
    table = Path(result_files(workflow, "sample")["sample"]).with_name(SUITE)
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    prompts: dict[str, bool] = {}
    for row in pq.read_table(table, columns=["prompt", "all_right"]).to_pylist():
        prompts[row["prompt"]] = prompts.get(row["prompt"], False) or row["all_right"]
        for kind in (kind_of(read_caption(row["prompt"])), "all"):
            right, asked = found[kind]
            found[kind] = right + row["all_right"], asked + 1
    found["best of seeds"] = sum(prompts.values()), len(prompts)
    return found


def kind_of(caption: Caption) -> str:
    if caption.relation:
        return "relation"
    return "one shape" if caption.groups[0].number == 1 else "several"


def share(right: int, asked: int) -> str:
    low, high = wilson(right, asked)
    return f"{right / asked:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
