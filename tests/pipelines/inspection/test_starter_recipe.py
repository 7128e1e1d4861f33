"""Starter recipes: they load, plan takes them, and nothing of a source can add to them."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from rasterloom.errors import RecipeError, SourceError
from rasterloom.pipelines.inspection.starter_recipe import PROMPT, look_at, recipe_text, write_recipe
from rasterloom.recipe.loader import load_recipe
from rasterloom.sources.pairs import read_sources

EVIL = "a: b # c\x1b[2J\u202e\nscore: [clip]"


def table(path, names=("url", "caption"), rows=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([f"http://a.test/{n}.jpg", f"a cat sits on mat {n}"] for n in range(rows))
    return path


def test_a_recipe_of_commented_lines(tmp_path):
    look = look_at(str(table(tmp_path / "My Lists 2024.csv", ("URL", "TEXT"))))
    assert look.corpus == "my_lists_2024"
    write_recipe(look, tmp_path / "recipe.yaml")
    lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    assert len(lines) <= 16 and all("#" in line for line in lines if line != "sources:")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    (source,) = recipe.sources
    assert (source.url, source.caption) == ("URL", "TEXT") and recipe.workspace == str(tmp_path / "work")
    assert read_sources(recipe.sources)[1]["pairs"] == 3


def test_the_lines_of_a_training_can_be_taken_in(tmp_path):
    write_recipe(look_at(str(table(tmp_path / "a.csv"))), tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(
        text.replace("\n# train", "\ntrain").replace("\n# sample", "\nsample")
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert len(recipe.train.stages) == 1 and recipe.sample.prompts == ("a cat sits on mat 0",)


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [("a cat and " * 9, "a cat and a cat and a cat and a cat and a cat and a cat and"), ("x" * 99, "x" * 60)],
)
def test_a_prompt_is_made_of_whole_words(tmp_path, caption, prompt):
    (tmp_path / "a.jsonl").write_text(json.dumps({"url": "http://a.test/1.jpg", "caption": caption}) + "\n")
    line = recipe_text(look_at(str(tmp_path / "a.jsonl")), Path("recipe.yaml")).splitlines()[-1]
    assert yaml.safe_load(line.removeprefix("# "))["sample"]["prompts"] == [prompt]


def test_without_captions_the_prompt_is_an_example(tmp_path):
    (tmp_path / "a.txt").write_text("http://a.test/1.jpg\n")
    assert PROMPT in recipe_text(look_at(str(tmp_path / "a.txt")), Path("recipe.yaml")).splitlines()[-1]


def test_no_caption_changes_the_recipe(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"url": "http://a.test/1.jpg", "caption": EVIL}) + "\n")
    write_recipe(look_at(str(tmp_path / "a.jsonl")), tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert text.splitlines()[-1].startswith("# sample: ")
    assert not any(c in text for c in "\x1b\u202e")
    assert [score.name for score in load_recipe(tmp_path / "recipe.yaml").score] == ["quality"]


def test_lines_say_what_was_understood(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.md").write_text("words")
    table(tmp_path / "data" / "a.csv", ("link", "alt"), rows=5)
    assert list(look_at(str(tmp_path / "data")).lines()) == [
        "source data (csv): 5 rows; 1 .csv read",
        "  url: link, caption: alt",
        "  columns: link, alt",
        "  1 .md not read (of another kind: give them a source of their own)",
        *(f"  http://a.test/{n}.jpg: a cat sits on mat {n}" for n in range(3)),
    ]


def test_paths_are_relative_where_they_were_given_so(tmp_path, monkeypatch):
    table(tmp_path / "lists" / "a.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    text = recipe_text(look_at("lists/a.csv"), Path("recipes/recipe.yaml"))
    assert yaml.safe_load(text)["sources"][0]["path"] == "../lists/a.csv"
    text = recipe_text(look_at(str(tmp_path / "lists" / "a.csv")), Path("recipe.yaml"))
    assert yaml.safe_load(text)["sources"][0]["path"] == str(tmp_path / "lists" / "a.csv")
    monkeypatch.chdir(tmp_path / "lists")
    write_recipe(look_at("a.csv"), tmp_path / "recipes" / "recipe.yaml")
    (source,) = load_recipe(tmp_path / "recipes" / "recipe.yaml").sources
    assert source.path == str(tmp_path / "lists" / "a.csv")


@pytest.mark.parametrize("name", [EVIL, "null", "1.5", "a'b\"c", "h\u00f6he: \U0001f600", " x", "[x", "\x7f"])
def test_no_name_of_a_column_changes_the_recipe(tmp_path, name):
    table(tmp_path / "a.csv", (name, f"{name} text"))
    write_recipe(look_at(str(tmp_path / "a.csv")), tmp_path / "recipe.yaml")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    (source,) = recipe.sources
    assert (source.url, source.caption) == (name, f"{name} text")
    assert [score.name for score in recipe.score] == ["quality"]
    text = (tmp_path / "recipe.yaml").read_text()
    assert not any(c in text for c in "\x1b\u202e\x7f")


@pytest.mark.parametrize("name", ["a: b #c", "lists [2024]", "2024", "\u00dcbung", "x\x1b[2J\u202e"])
def test_folders_may_have_any_name(tmp_path, name):
    table(tmp_path / name / "a.csv")
    look = look_at(str(tmp_path / name))
    write_recipe(look, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml").sources[0].path == str(tmp_path / name)


def test_a_file_that_is_there_stays(tmp_path):
    look = look_at(str(table(tmp_path / "a.csv")))
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(RecipeError, match="is there already"):
        write_recipe(look, tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    with pytest.raises(RecipeError, match="No such file or directory"):
        write_recipe(look, tmp_path / "none" / "recipe.yaml")


def test_a_recipe_does_not_lie_in_the_folder_that_it_reads(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    look = look_at(str(tmp_path))
    assert look.guess.source.caption == "none"
    with pytest.raises(RecipeError, match="which is read"):
        write_recipe(look, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()


def test_nothing_to_look_at(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="the folder is empty"):
        look_at(str(tmp_path / "empty"))
    with pytest.raises(SourceError, match="no such file"):
        look_at(str(tmp_path / "none.csv"))
    with pytest.raises(SourceError, match="no such file or folder"):
        look_at(str(tmp_path / "none"))
