"""`rasterloom train`: stages by themselves, mixtures and pinned versions, dry runs, what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.refs import tag

TRAIN = """
train:
  heldout: 0.1
  dropout: 0
  checkpoint_every: 3
  stages: [{stages}]
"""
STAGE = "{target: 64, steps: 4, lr: 1.0e-3, warmup_steps: 1, batch_tokens: 700}"


class Shop:
    """Recipes with a corpus whose tokens of 64 and 96 are made, tagged v1."""

    def __init__(self, shop):
        self.folder = shop.recipe_file.parent
        self.text = shop.recipe_file.read_text()
        self.corpus = shop.corpus

    def recipe(self, name, stages=STAGE, train="", run="", **changes):
        text = self.text
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        if run:
            text = text.replace("run: {", f"run: {{{run}, ")
        file = self.folder / f"{name}.yaml"
        file.write_text(text + TRAIN.replace("{stages}", stages) + train)
        return file

    def trained(self):
        return sorted(str(path) for path in (self.folder / "work/little/files/train").glob("*/*/result.json"))


@pytest.fixture(scope="module")
def shop(workshop_at, tmp_path_factory):
    made = workshop_at(tmp_path_factory.mktemp("train") / "recipe.yaml").write(targets="[64, 96]")
    made.run("--until", "lengths")
    tag(made.corpus, "v1")
    return Shop(made)


def dry(rasterloom, recipe, *options):
    code, printed, _ = rasterloom("train", recipe, "--dry-run", "--format", "json", *options)
    assert code == 0
    return [json.loads(line) for line in printed.splitlines()]


def test_a_dry_run_says_what_a_stage_takes_and_does_nothing(shop, rasterloom):
    two = "{target: 64, epochs: 3, batch_tokens: 700}, {target: 96, tokens: 3000, batch_tokens: 700}"
    first, second = dry(rasterloom, shop.recipe("dry", two), "--usd-per-gpu-hour", "2", "--mfu", "0.5")
    assert (first["stage"], second["stage"]) == ("train/1-64", "train/2-96")
    rows = Corpus.of(load_recipe(shop.folder / "dry.yaml")).read("tokens", ["target", "n_tokens", "bucket"])
    of_64 = [row for row in rows.to_pylist() if row["target"] == 64]
    assert first["rows"] + first["held"] == len(of_64)
    assert first["epochs"] == 3.0 and first["tokens"] == 3 * first["epoch_tokens"]
    assert first["by_task"] == {"t2i": first["tokens"]}
    assert sum(first["by_bucket"].values()) == first["tokens"]
    assert set(first["by_bucket"]) <= {row["bucket"] for row in of_64}
    assert 3000 <= second["tokens"] < 3700 and second["steps"] in (5, 6, 7)
    assert 0.5 < first["useful_share"] <= 1 and 0.5 < first["even_share"] <= 1
    hours = first["gpu_hours"]
    assert hours["A100"] == pytest.approx(first["flops"] / (312e12 * 0.5) / 3600)
    assert hours["H100"] == hours["H200"] == pytest.approx(hours["A100"] * 312 / 989)
    assert first["usd"]["A100"] == pytest.approx(2 * hours["A100"])
    rate = first["tokens_per_s"]["A100"]
    assert rate * hours["A100"] * 3600 == pytest.approx(first["tokens"])
    assert not shop.trained()
    code, printed, _ = rasterloom("train", shop.folder / "dry.yaml", "--dry-run", "--stage", "2")
    assert code == 0 and "train/2-96" in printed and "train/1-64" not in printed
    for word in (
        "held out",
        "tokens each",
        "GiB a worker",
        "t2i",
        "FLOPs",
        "of H100",
        "at 69% / 55% / 64% MFU (operators counted with fused kernels, not measured)",
    ):
        assert word in printed
    code, printed, _ = rasterloom("plan", shop.folder / "dry.yaml")
    steps, tokens = f"{second['steps']:,} steps", f"{second['tokens']:,} tokens"
    assert (
        code == 0
        and f"train/2-96: {steps}, {tokens}; " in printed
        and "of H200, at 69% / 55% / 64% MFU" in printed
    )


def test_a_dry_run_names_the_gpus_on_which_a_stage_costs_more_than_its_run_may(shop, rasterloom):
    for max_usd, said in (("1.0e-12", True), ("1000", False)):
        recipe = shop.recipe("limited", run=f"max_usd: {max_usd}, price: {{gpu: 2}}")
        code, printed, _ = rasterloom("train", recipe, "--dry-run")
        assert code == 0
        assert ("more than run.max_usd (0.00 USD) on A100, H100, H200" in printed) == said


def test_a_plan_tells_what_is_wrong_with_a_stage_and_of_untokenised_ones_nothing(shop, rasterloom):
    code, printed, _ = rasterloom("plan", shop.recipe("tight", "{target: 96, steps: 2, batch_tokens: 130}"))
    assert code == 0 and "\ntrain/1-96: batch_tokens 130 is smaller than the longest sequence (" in printed
    new = shop.recipe("new", **{"text_vocab: 300": "text_vocab: 321"})
    code, printed, _ = rasterloom("plan", new)
    assert code == 0 and "train/1-64" in printed and "MFU" not in printed


def test_what_is_not_trained_and_what_is_offloaded_is_in_the_dry_run(shop, rasterloom):
    (whole,) = dry(rasterloom, shop.recipe("whole"))
    file = shop.recipe("frozen", STAGE.replace("batch_tokens", "freeze: [embeddings], batch_tokens"))
    text = "  dropout: 0\n  deepspeed: {zero: 2, offload: cpu}\n  model: {remat: full}\n"
    file.write_text(file.read_text().replace("  dropout: 0\n", text))
    (less,) = dry(rasterloom, file)
    assert less["memory"]["trained"] < whole["memory"]["trained"] == whole["memory"]["params"]
    assert less["memory"]["host"] > 0 == whole["memory"]["host"]
    assert less["memory"]["states"] < whole["memory"]["states"]
    assert less["memory"]["activations"] < whole["memory"]["activations"]
    code, printed, _ = rasterloom("train", file, "--dry-run")
    assert code == 0 and "beside the GPU, offloaded" in printed and " parameters\n" in printed


def test_micro_batches_are_in_the_dry_run(shop, rasterloom):
    (whole,) = dry(rasterloom, shop.recipe("whole"))
    file = shop.recipe("parts")
    file.write_text(file.read_text().replace("  dropout: 0\n", "  dropout: 0\n  micro_batch_tokens: 200\n"))
    (parts,) = dry(rasterloom, file)
    assert parts["micro_batches"] > 1 == whole["micro_batches"]
    assert parts["rank_tokens"] <= 200 < whole["rank_tokens"]
    assert parts["memory"]["activations"] < whole["memory"]["activations"]


def test_before_the_tokens_are_there_a_dry_run_says_what_would_run(shop, rasterloom):
    recipe = shop.recipe("untokenised", **{"text_vocab: 300": "text_vocab: 320"})
    code, printed, _ = rasterloom("train", recipe, "--dry-run")
    assert code == 0
    assert "no forecast yet: tokens/64, text would run first" in printed


def test_stages_train_one_by_one_and_only_once(shop, rasterloom):
    two = f"{STAGE}, {{target: 96, steps: 3, warmup_steps: 1, batch_tokens: 900, freeze: [embeddings]}}"
    recipe = shop.recipe("one_by_one", two)
    code, _, err = rasterloom("train", recipe, "--resume")
    assert code == 2 and "train/1-64 has no checkpoint to resume from: without --resume it starts" in err
    code, printed, err = rasterloom("train", recipe, "--stage", "1")
    assert code == 0, err
    assert "steps 4" in printed and "tokens/96" not in printed
    assert len(shop.trained()) == 1
    code, printed, err = rasterloom("train", recipe)
    assert code == 0, err
    assert "train/1-64" in printed and len(shop.trained()) == 2
    code, printed, _ = rasterloom("train", recipe, "--resume")
    assert code == 0 and " 0 ran now" in printed
    code, printed, err = rasterloom("run", recipe, "--until", "sample")
    assert code == 0 and "images 0" in printed and "grid.png" not in printed, "without prompts"
    code, _, err = rasterloom("train", recipe, "--fresh")
    assert code == 2 and "--fresh deletes: add --yes" in err
    code, printed, err = rasterloom("train", recipe, "--stage", "2", "--fresh", "--yes")
    assert code == 0, err
    assert "train/2-96: deleted, it starts over" in printed and "1 ran now" in printed
    for wrong in ("3", "0", "first"):
        code, _, err = rasterloom("train", recipe, "--stage", wrong)
        assert code == 2 and "a number from 1 to 2 (1-64, 2-96)" in err and f"--stage {wrong}: " in err


MIXED = """{steps: 4, batch_tokens: 1200, warmup_steps: 0, optimizer_state: keep, mixture:
    [{target: 64, weight: 1, tasks: [t2i]}, {target: 96, weight: 3, corpus: little@v1}]}"""


def test_a_mixture_of_own_and_pinned_tokens_trains_on_from_the_stage_before(shop, rasterloom):
    recipe = shop.recipe("mixed", f"{STAGE}, {MIXED}", **{"targets: [64, 96]": "targets: [64]"})
    _, forecast = dry(rasterloom, recipe)
    assert forecast["stage"] == "train/2-64-96" and forecast["missing"] == []
    of_96 = sum(tokens for name, tokens in forecast["by_bucket"].items() if int(name.split("x")[0]) > 64)
    assert of_96 > 0.4 * forecast["tokens"]
    code, printed, err = rasterloom("train", recipe)
    assert code == 0, err
    assert "pinned/little-v1-96" in printed
    done = [
        p.step for p in Workflow(load_recipe(recipe)).plan() if p.step.name == "train/2-64-96" and not p.runs
    ]
    metrics = shop.folder / "work/little/files" / done[0].name / done[0].fingerprint / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 4
    assert [p.step.name for p in Workflow(load_recipe(recipe)).plan(done[0].name) if p.runs] == []


def test_a_pinned_stage_knows_nothing_of_what_the_recipe_makes_anew(shop, rasterloom):
    stage = "{target: 64, steps: 2, batch_tokens: 700, corpus: little@v1}"
    code, printed, err = rasterloom("train", shop.recipe("pinned", stage))
    assert code == 0, err
    assert "images" not in printed  # none of the corpus's own steps is looked at
    changed = shop.recipe("pinned", stage, **{"min_side >= 64": "min_side >= 100"})
    runs = {p.step.name for p in Workflow(load_recipe(changed)).plan() if p.runs}
    assert "tokens/64" in runs and not {name for name in runs if name.startswith(("train", "pinned"))}


def test_tokens_that_the_recipe_does_not_name_are_taken_from_the_corpus(shop, rasterloom):
    stage = "{target: 96, steps: 2, batch_tokens: 700}"
    recipe = shop.recipe("there", stage, **{"targets: [64, 96]": "targets: [64]"})
    code, printed, err = rasterloom("train", recipe)
    assert code == 0, err
    assert "pinned/little-main-96" in printed


UNDONE = "{target: 64, steps: 7, batch_tokens: 700}"
WRONG = {
    "no train section": (None, {}, "the recipe trains nothing: it has no train section"),
    "no tokens": (
        "{target: 128, steps: 2}",
        {},
        "train.stages[0].target is 128, which tokenize.targets [64, 96] does not name, and the corpus "
        "little has no tokens of it",
    ),
    "version gone": (
        "{target: 64, steps: 2, corpus: little@v9}",
        {},
        "train.stages[0].corpus: little has no branch, tag or snapshot v9; its branches and tags: main, v1",
    ),
    "corpus gone": (
        "{target: 64, steps: 2, corpus: other@v1}",
        {},
        "train.stages[0].corpus: other has no branch, tag or snapshot v1",
    ),
    "target not in the version": (
        "{steps: 2, mixture: [{target: 64}, {target: 128, corpus: little@v1}]}",
        {},
        "train.stages[0].mixture[1].corpus: little@v1 has no tokens of target 128",
    ),
    "batch smaller than a picture": (
        "{target: 96, steps: 2, batch_tokens: 30}",
        {},
        "train/1-96: batch_tokens is 30, but an image of target 96 alone has at least",
    ),
    "batch smaller than the longest sample": (
        "{target: 96, steps: 2, batch_tokens: 130}",
        {},
        "train/1-96: batch_tokens 130 is smaller than the longest sequence (",
    ),
    "no such tasks": (
        "{steps: 2, mixture: [{target: 64, tasks: [depth]}]}",
        {},
        "train/1-64: mixture[0].tasks: no token of target 64 is of depth; its tasks: t2i",
    ),
    "unknown parameters": (
        "{target: 64, steps: 2, freeze: [encoder]}",
        {},
        "train/1-64: freeze: 'encoder' names no parameter; there are embeddings, head, norms, layers.0-2",
    ),
    "no checkpoint": (
        UNDONE,
        {"  dropout: 0": "  init: nowhere"},
        "train/1-64: train.init: no checkpoint at nowhere",
    ),
    "no GPU": (UNDONE, {"run: {": "run: {use_gpu: true, "}, "run.use_gpu is set, but Ray finds no GPU"),
    "too many workers": (
        UNDONE,
        {"run: {": "run: {train_workers: 3, "},
        "run.train_workers asks for 3 workers of CPU 1 each, but Ray has room for 2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_before_anything_starts(shop, rasterloom, name):
    stages, changes, words = WRONG[name]
    recipe = shop.recipe("wrong", stages or STAGE)
    text = recipe.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text.split("\ntrain:")[0] if stages is None else text)
    before = shop.trained()
    code, printed, err = rasterloom("train", recipe)
    assert code == 2 and words in err, (printed, err)
    assert len(err.strip().splitlines()) == 1 and not printed and shop.trained() == before


def test_a_vocabulary_too_small_for_the_tokens_is_reported(shop, rasterloom, tmp_path):
    from rasterloom.tokenize.profiles import profile_of
    from rasterloom.train.model.packed_lm import build_model, save_model

    small = profile_of("mini", 256)
    save_model(build_model("tiny", small), small, tmp_path / "small")
    recipe = shop.recipe("vocabulary")
    recipe.write_text(recipe.read_text().replace("  dropout: 0", f"  init: {tmp_path}/small"))
    code, _, err = rasterloom("train", recipe)
    assert code == 2 and f"small has a vocabulary of {small.vocab_size}, but the tokens are of" in err


def test_an_init_that_was_not_downloaded_is_reported_before_anything_is_made(shop, rasterloom, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "chameleon"}')
    weights = tmp_path / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 13\n")
    recipe = shop.recipe("pointer", **{"text_vocab: 300": "text_vocab: 322"})  # its tokens are not made yet
    recipe.write_text(recipe.read_text().replace("  dropout: 0", f"  init: {tmp_path}"))
    told = f"train/1-64: train.init: {weights} is a git-lfs pointer in place of the file: run `git lfs pull`"
    code, printed, err = rasterloom("plan", recipe)
    assert code == 2 and told in printed + err
    for options in (("--dry-run",), ()):
        code, printed, err = rasterloom("train", recipe, *options)
        assert code == 2 and told in err and not printed
    code, printed, err = rasterloom("run", recipe)
    assert code == 2 and told in err and "tokens/64" not in printed


def test_other_text_vocabularies_do_not_mix(shop, rasterloom):
    recipe = shop.recipe("texts", MIXED.replace(", optimizer_state: keep", ""))
    recipe.write_text(recipe.read_text().replace("text_vocab: 300", "text_vocab: 310"))
    code, printed, err = rasterloom("train", recipe)  # the tokens have to be made before it can be told
    assert code == 2 and "tokens/64" in printed
    assert "the text vocabularies of text and pinned/little-v1-96 differ" in err


def test_versions_and_runs_do_not_wait_for_a_version_that_is_to_be_made(shop, rasterloom):
    recipe = shop.recipe("later", "{target: 64, steps: 2, corpus: little@v2}")
    code, printed, _ = rasterloom("run", recipe, "--until", "tokens")
    assert code == 0 and "tokens/64" in printed
    code, _, err = rasterloom("plan", recipe)
    assert code == 2 and "has no branch, tag or snapshot v2" in err


def test_a_killed_training_goes_on_from_its_last_checkpoint(shop, rasterloom):
    stage = STAGE.replace("steps: 4", "steps: 40")
    recipe = shop.recipe("killed", stage)
    process = subprocess.Popen(
        [sys.executable, "-m", "rasterloom", "train", str(recipe)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    (step,) = (p.step for p in Workflow(load_recipe(recipe)).plan() if p.step.name == "train/1-64")
    folder = shop.folder / "work/little/files" / step.name / step.fingerprint
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/step-*.json")):  # written last
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    file = recipe.read_text()
    code, printed, err = rasterloom("train", recipe, "--resume")
    assert code == 0, err
    assert "train/1-64 continues from step " in printed and recipe.read_text() == file
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
