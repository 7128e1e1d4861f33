"""What a recipe says of resources, and that it is nobody's identity."""

import pytest
from pydantic import ValidationError

from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.resources import StepTakes
from rasterloom.recipe.run import Run

STEPS = {
    "images": {"cpus": 1, "memory": "2GB", "resources": {"fetch": 1}},
    "codes": {"gpus": 0.5, "actors": {"max": 8}},
    "codes/1024": {"actors": 4},
}


def test_a_step_takes_what_its_own_name_says_else_its_kind_s():
    run = Run.model_validate({"steps": STEPS})
    assert run.takes("images").memory == 2_000_000_000
    assert (run.takes("codes/512").actors.min, run.takes("codes/512").actors.max) == (1, 8)
    assert (run.takes("codes/1024").actors.min, run.takes("codes/1024").gpus) == (4, None)
    assert run.takes("selection") == StepTakes()


def test_a_stage_takes_what_its_number_says_else_what_all_do():
    run = Run.model_validate({"steps": {"train": {"cpus": 4}, "train/2": {"cpus": 8, "placement": "SPREAD"}}})
    assert (run.takes("train/1-512").cpus, run.takes("train/1-512").placement) == (4, None)
    assert (run.takes("train/2-512-768").cpus, run.takes("train/2-512-768").placement) == (8, "SPREAD")
    assert run.takes("train/20-512").cpus == 4


def test_a_stage_that_there_is_not_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "corpus: demo\nsources: [{path: pairs.csv}]\ntrain: {stages: [{target: 64, steps: 1}]}\n"
        "run: {steps: {train/2: {cpus: 2}}}\n"
    )
    with pytest.raises(RecipeError, match=r"run\.steps: train/2: train.stages has 1"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"image": {}}, "no step over shards is called image"),
        ({"sample": {}}, "no step over shards is called sample, and none trains; there are pairs"),
        ({"images": {"accelerator": "A100"}}, "images uses no GPU"),
        ({"images": {"placement": "SPREAD"}}, "placement is for training workers, train"),
        ({"train": {"placement": "PACKED"}}, "STRICT_SPREAD"),
        ({"train": {"actors": 4}}, "run.train_workers says how many"),
        ({"train/1": {"gpus": 2}}, "train/1: a training worker has one GPU"),
        ({"train": {"cpus": 0}}, "cpus is how many threads it has"),
        ({"train/0": {}}, "train/2 for the second stage"),
        ({"train/1-512": {}}, "train/2 for the second stage"),
        ({"images": {"gpus": 1}}, "images uses no GPU"),
        ({"codes": {"actors": {"min": 4, "max": 2}}}, "max 2 is smaller than min 4"),
        ({"codes": {"resources": {"GPU": 1}}}, "GPU is no custom resource"),
        ({"codes": {"resources": {"fetch": 0}}}, "takes a number above 0"),
        ({"codes": {"memory": "much"}}, "byte"),
        ({"codes": {"cpu": 1}}, "cpu"),
    ],
)
def test_what_cannot_be_is_refused(steps, words):
    with pytest.raises(ValidationError, match=words):
        Run.model_validate({"steps": steps})


def test_no_fingerprint_knows_of_resources(tmp_path):
    from rasterloom.pipelines.workflow import Workflow

    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
    found = []
    takes = "images: {cpus: 4}, codes: {memory: 1GB}, train: {cpus: 2, placement: SPREAD}"
    for run in ("{}", f"{{steps: {{{takes}}}, driver: {{cpus: 0}}, price: {{cpu: 1}}}}"):
        (tmp_path / "recipe.yaml").write_text(
            f"corpus: demo\nsources: [{{path: pairs.csv}}]\n"
            f"train: {{stages: [{{target: 512, steps: 1}}]}}\nrun: {run}\n"
        )
        found.append([step.fingerprint for step in Workflow(load_recipe(tmp_path / "recipe.yaml")).steps])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("memory", "pixels", "lower"),
    [("1GB", 100_000_000, 37_500_000), ("300MB", 100_000_000, None), ("1GB", 37_500_001, 37_500_000)],
)
def test_a_worker_that_fetches_holds_an_image(tmp_path, memory, pixels, lower):
    recipe = tmp_path / "recipe.yaml"
    text = "corpus: demo\nsources: [{path: pairs.csv}]\n"
    limit = text + f"fetch: {{max_pixels: {pixels}}}\n"
    recipe.write_text(limit + f"run: {{steps: {{images: {{memory: {memory}}}}}}}\n")
    with pytest.raises(RecipeError, match=r"run\.steps\.images\.memory: .* give it more") as raised:
        load_recipe(recipe)
    assert str(raised.value).endswith(f", or set fetch.max_pixels to {lower}" if lower else "give it more")
    if lower:
        recipe.write_text(recipe.read_text().replace(f"{pixels}}}", f"{lower}}}"))
        assert load_recipe(recipe).fetch.max_pixels == lower
    recipe.write_text(text + "run: {steps: {images: {memory: 2GB}}}\n")
    assert load_recipe(recipe).run.takes("images").memory == load_recipe(recipe).fetch.worker_bytes
