import pytest
import yaml
from pydantic import ValidationError

from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.suites import SceneSuite
from rasterloom.recipe.train import Train


@pytest.mark.parametrize(
    ("section", "fields", "reason"),
    [
        (SamplingConfig, {"prompts": ("a <|image|> sign",)}, r"holds <\|image\|>, which stands for an image"),
        (SceneSuite, {"size": (64, 64), "prompts": "cats"}, "Input should be 'scenes'"),
        (SceneSuite, {"size": (64, 64), "seeds": 0}, "greater than or equal to 1"),
        (SamplingConfig, {"seed": -1}, "greater than or equal to 0"),
        (Train, {"stages": ({"target": 64, "steps": 1},), "seed": -1}, "greater than or equal to 0"),
    ],
)
def test_what_would_end_the_last_step_is_refused_in_the_recipe(section, fields, reason):
    with pytest.raises(ValidationError, match=reason):
        section(**fields)


def test_the_check_of_colours_is_answered_by_what_took_its_place(tmp_path):
    check = {"prompts": ["a {colour} dot"], "palette": {"red": [255, 0, 0]}, "size": [64, 64]}
    recipe = {"corpus": "a", "sources": [{"path": "pairs.parquet"}], "sample": {"colour_check": check}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"sample\.colour_check: no longer a field; sample\.suite judges"):
        load_recipe(tmp_path / "recipe.yaml")
