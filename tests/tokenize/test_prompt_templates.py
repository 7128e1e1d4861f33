import string
from pathlib import Path

import pytest

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.prompt_templates import IMAGE, TEMPLATES, Template, t2i_prompt, turns


def test_the_resolution_aware_prompt():
    assert t2i_prompt(1024, 256, "a cat") == (
        "Generate an image of 1024x256 according to the following prompt:\na cat"
    )


def test_captions_are_taken_word_for_word():
    caption = "{width} {caption} {0} {{ }"
    assert t2i_prompt(32, 32, caption).endswith("\n" + caption)


@pytest.mark.parametrize("task", TEMPLATES)
def test_every_task_fills_its_fields(task):
    template = TEMPLATES[task]
    named = {
        name for text in (template.human, template.gpt) for _, name, *_ in string.Formatter().parse(text)
    }
    fields = {name: f"<{name}>" for name in named if name}
    (human, question), (gpt, answer) = turns(task, **fields)
    assert (human, gpt) == ("human", "gpt")
    for value in fields.values():
        assert value in question + answer
    if fields:
        with pytest.raises(ValueError, match=f"task '{task}' needs"):
            turns(task)


def test_the_wording_of_the_reference():
    assert turns("depth") == [("human", f"Depth estimation. {IMAGE}"), ("gpt", IMAGE)]
    assert turns("caption", caption="A cat.")[0][1] == f"Describe the image in detail. {IMAGE}"
    assert turns("detection", object="the dog")[0][1] == f"Detect: the dog. {IMAGE}"
    assert turns("multiview", width=384, height=384, caption="a cup")[1][1].count(IMAGE) == 16
    with pytest.raises(ValueError, match="unknown task 'paint'"):
        turns("paint")


def test_the_docs_have_the_whole_table():
    docs = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = [line for line in docs.splitlines() if line.startswith("| `")]
    for task, template in TEMPLATES.items():
        (row,) = (row for row in rows if row.startswith(f"| `{task}` |"))
        assert f"`{template.human}`".replace("\n", "⏎").replace("|", "\\|") in row


def test_the_names_of_fields_may_be_any():
    found = turns(
        "new", TEMPLATES | {"new": Template("{task} {templates} {fields}")}, task=1, templates=2, fields=3
    )
    assert found == [("human", "1 2 3"), ("gpt", IMAGE)]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, "Generate an image of 64x32 according to the following prompt:\na {cat}"),
        ({"size_in_prompt": 0.5}, "Generate an image of 64x32 according to the following prompt:\na {cat}"),
        ({"size_in_prompt": 0}, "Generate an image according to the following prompt:\na {cat}"),
        ({"prompts": {"t2i": "{caption} ({height} high)"}}, "a {cat} (32 high)"),
        ({"prompts": {"t2i": "{text}"}}, "a {cat}"),
        (
            {"prompts": {"t2i": "{caption}"}, "size_in_prompt": 0},
            "Generate an image according to the following prompt:\na {cat}",
        ),
        ({"prompts": {"t2i_any_size": "{caption}"}, "size_in_prompt": 0}, "a {cat}"),
    ],
)
def test_a_prompt_is_worded_as_the_rows_of_the_recipe_are(section, expected):
    assert t2i_prompt(64, 32, "a {cat}", Tokenize(**section)) == expected
