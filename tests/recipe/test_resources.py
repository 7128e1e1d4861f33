"""What a recipe says of resources, and that it is nobody's identity."""

import pytest
from pydantic import ValidationError

from rasterloom.recipe import Run, StepTakes, load_recipe

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


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"image": {}}, "no step over shards is called image"),
        ({"train": {}}, "no step over shards is called train"),
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
    from rasterloom.pipelines.run import workflow

    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
    found = []
    for run in ("{}", "{steps: {images: {cpus: 4}, codes: {memory: 1GB}}, driver: {cpus: 0}}"):
        (tmp_path / "recipe.yaml").write_text(f"corpus: demo\nsources: [{{path: pairs.csv}}]\nrun: {run}\n")
        found.append([step.fingerprint for step in workflow(load_recipe(tmp_path / "recipe.yaml"))])
    assert found[0] == found[1]
