"""Mistakes that would end a training at its last step, refused before the first."""

import pytest
import yaml

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.preflight import check_training
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"sizes": [[64, 64], [9, 5]]}, r"sample\.sizes \[9, 5\]: no bucket of target 64; .* is \[64, 32\]"),
        ({"suite": {"size": [96, 96]}}, r"sample\.suite\.size \[96, 96\]: no bucket of target 64"),
        ({"best_of": {"judge": "tidy"}}, r"sample\.best_of\.judge tidy: unknown judge 'tidy'; known: scene"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_drawn_are_refused_before_the_training(tmp_path, sample, words):
    train = {"init": "tiny", "stages": [{"target": 64, "steps": 1}]}
    recipe = {
        "corpus": "a",
        "workspace": str(tmp_path / "workspace"),
        "sources": [{"path": "pairs.csv"}],
        "tokenize": {"codec": "mini", "targets": [64]},
    }
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://127.0.0.1/a.jpg,one\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"train": train, "sample": sample}))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=words):
        check_training(loaded, [step for step in Workflow(loaded).steps if step.name == "sample"])
