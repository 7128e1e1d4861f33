import pytest

from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import recipe_of

ENDPOINT = {"url": "http://127.0.0.1:8000/v1", "model": "eye"}


def recipe(tmp_path, caption, **more):
    data = {"corpus": "c", "sources": [{"path": "pairs.parquet"}], "caption": caption, **more}
    return recipe_of(data, tmp_path)


def test_a_list_of_captioners_is_enough(tmp_path):
    found = recipe(
        tmp_path,
        [
            {"name": "vlm", "endpoint": ENDPOINT, "answers": ["short", "long"]},
            {"name": "own", "local": {"path": "model"}},
            {"name": "other", "field": "texts[*]"},
        ],
    ).caption
    assert found.names == ("short", "long", "own", "other")
    assert found.by[1].local.path == str(tmp_path / "model")


@pytest.mark.parametrize(
    ("captioner", "words"),
    [
        ({"name": "a"}, "give one of endpoint, local and field"),
        ({"name": "a", "field": "b", "endpoint": ENDPOINT}, "give one of"),
        ({"name": "a", "field": "b", "prompt": "What?"}, "prompt and answers are for models"),
        ({"name": "alt", "field": "b"}, "alt is the caption as found"),
        ({"name": "A b", "field": "b"}, "caption.by.*name"),
        ({"name": "a", "endpoint": {"url": "ftp://a/v1", "model": "m"}}, "url"),
        ({"name": "a", "endpoint": {"url": "http://me:word@a/v1", "model": "m"}}, "holds a login"),
        ({"name": "a", "endpoint": {**ENDPOINT, "key": "sk-proj-123"}}, "environment variable"),
        ({"name": "a", "endpoint": {**ENDPOINT, "budget_usd": 5}}, "takes prices"),
        ({"name": "a", "endpoint": {**ENDPOINT, "options": {"messages": []}}}, "set by Rasterloom"),
        ({"name": "a", "endpoint": ENDPOINT, "prompt": "{{ atl }}"}, "did you mean alt"),
        ({"name": "a", "endpoint": ENDPOINT, "prompt": "{{ alt"}, "prompt"),
        ({"name": "a", "endpoint": ENDPOINT, "answers": ["Long One"]}, "no name"),
        ({"name": "a", "endpoint": ENDPOINT, "answers": ["x", "x"]}, "two captions are called x"),
    ],
)
def test_mistakes(tmp_path, captioner, words):
    with pytest.raises(RecipeError, match=words) as caught:
        recipe(tmp_path, [captioner])
    assert "sk-proj-123" not in str(caught.value)


def test_weights_are_of_captions_that_there_are(tmp_path):
    train = {"stages": [{"target": 64, "steps": 1}], "captions": {"alt": 1, "lnog": 2}}
    captioner = {"name": "a", "endpoint": ENDPOINT, "answers": ["long"]}
    with pytest.raises(RecipeError, match="no caption is called 'lnog'; did you mean long"):
        recipe(tmp_path, [captioner], train=train, tokenize={"targets": [64]})
    with pytest.raises(RecipeError, match="weights of 0 or more"):
        recipe(tmp_path, [captioner], train={**train, "captions": {"alt": 0}})
    stage = {"target": 64, "steps": 1, "captions": {"long": 1}}
    found = recipe(tmp_path, [captioner], train={"stages": [stage], "captions": {"alt": 1}}).train
    assert found.of_stage(0).captions == {"long": 1.0}


def test_without_the_sections_nothing_is_dumped(tmp_path):
    """Fingerprints and digests of earlier recipes stay theirs."""
    data = {
        "corpus": "c",
        "sources": [{"path": "p.parquet"}],
        "train": {"stages": [{"target": 64, "steps": 1}]},
    }
    text = recipe_of(data, tmp_path).model_dump_json()
    assert "caption" not in text.replace('"caption":"caption"', "")  # of the source's column
