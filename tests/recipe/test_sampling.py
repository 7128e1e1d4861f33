import pytest
from pydantic import ValidationError

from rasterloom.recipe.sampling import ColourCheck, SamplingConfig
from rasterloom.recipe.train import Train

CHECK = {
    "palette": {"red": (255, 0, 0), "blue": (0, 0, 255)},
    "prompts": ("a {colour} dot",),
    "size": (64, 64),
}


@pytest.mark.parametrize(
    ("section", "fields", "reason"),
    [
        (SamplingConfig, {"prompts": ("a <|image|> sign",)}, r"holds <\|image\|>, which stands for an image"),
        (ColourCheck, CHECK | {"prompts": ("{colour} <|image|>",)}, r"holds <\|image\|>"),
        (ColourCheck, CHECK | {"palette": CHECK["palette"] | {"<|image|>": (0, 0, 0)}}, r"holds <\|image\|>"),
        (ColourCheck, CHECK | {"prompts": ("{colour} {shape}",)}, "no other braces than those of {colour}"),
        (ColourCheck, CHECK | {"prompts": ("{colour} {",)}, "no other braces than those of {colour}"),
        (SamplingConfig, {"seed": -1}, "greater than or equal to 0"),
        (Train, {"stages": ({"target": 64, "steps": 1},), "seed": -1}, "greater than or equal to 0"),
    ],
)
def test_what_would_end_the_last_step_is_refused_in_the_recipe(section, fields, reason):
    ColourCheck(**CHECK)
    with pytest.raises(ValidationError, match=reason):
        section(**fields)
