"""The Python API, on corpora that the command line made."""

import numpy as np
import pytest
import yaml
from docblocks import blocks

import rasterloom
from rasterloom.errors import RecipeError, VersionError
from rasterloom.recipe.loader import load_recipe


def test_what_is_done_is_planned_and_run_as_by_the_command(undisturbed, capsys):
    plan = rasterloom.plan(str(undisturbed.recipe_file), until="tokens")
    assert [step.name for step in plan if step.runs] == [] and len(plan) == 7
    assert repr(plan).splitlines()[0] == "pairs      skip  done"
    assert plan._repr_html_().count("<tr>") == 8
    corpus = rasterloom.run(undisturbed.recipe_file, until="tokens", quiet=True)
    assert capsys.readouterr().out == ""
    assert corpus.rows()["images"] == len(undisturbed.rows("images"))


def test_a_recipe_may_be_a_dict(undisturbed, monkeypatch):
    monkeypatch.chdir(undisturbed.recipe_file.parent)
    content = yaml.safe_load(undisturbed.recipe_file.read_text())
    assert not any(step.runs for step in rasterloom.plan(content, until="tokens"))
    assert not any(step.runs for step in rasterloom.plan(load_recipe("recipe.yaml"), until="tokens"))
    changed = rasterloom.plan(content | {"keep": "min_side >= 100"}, until="selection")
    assert [step.name for step in changed if step.runs] == ["selection"] and "run " in repr(changed)
    with pytest.raises(RecipeError, match=r"^recipe: kept: no such field; did you mean keep\?"):
        rasterloom.plan(content | {"kept": "all"})


def test_tables_are_read_at_each_version(two_versions):
    corpus = rasterloom.open(two_versions.recipe_file)
    assert corpus.versions() == ["main", "v1"] and repr(corpus).startswith(f"{corpus.name}@main: pairs ")
    before = corpus.at("v1")
    for name, rows in (
        ("selection", two_versions.before["selection"]),
        ("images", two_versions.rows("images")),
    ):
        assert before.table(name).num_rows == len(rows) == before.rows()[name]
    kept = "SELECT count(*) AS n FROM selection WHERE kept"
    (now,), (then,) = (view.sql(kept)["n"].to_pylist() for view in (corpus, before))
    assert 0 < now < then == before.table("selection", ["kept"], where="kept == true").num_rows
    failed = before.table("images", ["key", "error"], where="status == 'failed'")
    assert failed.column_names == ["key", "error"] and failed["error"].null_count == 0
    assert before.dataset("tokens").count_rows() == before.rows()["tokens"]
    assert corpus.table("pairs", limit=3).num_rows == 3


def test_a_workspace_is_opened_by_its_folder(two_versions):
    workspace = load_recipe(two_versions.recipe_file).workspace
    corpus = rasterloom.open(workspace, at="v1")
    assert (corpus.name, corpus.version) == (two_versions.corpus.name, "v1")
    with pytest.raises(RecipeError, match=r"corpus nobody: .* has no such corpus; known: "):
        rasterloom.open(workspace, corpus="nobody")
    with pytest.raises(RecipeError, match="is no workspace: it holds no catalog"):
        rasterloom.open(two_versions.site[0])
    with pytest.raises(VersionError, match=r"has no branch, tag or snapshot v9; .* main, v1"):
        rasterloom.open(workspace, at="v9")
    with pytest.raises(RecipeError, match=r"@v1 has no table picture; it has pairs, images"):
        corpus.table("picture")


def test_images_are_shown_with_their_captions(undisturbed):
    corpus = rasterloom.open(undisturbed.recipe_file)
    images = corpus.images("width > height", limit=3)
    assert len(images) == 3 and all(image.mode == "RGB" and image.width > image.height for image in images)
    sheet = corpus.sheet(limit=5, across=2)
    assert sheet.width <= 2 * 160 + 8 + 480 and len(np.unique(np.asarray(sheet))) > 50
    assert corpus.sheet("false").size[0] > 0  # none: an empty sheet


def test_queries_read_tables_alone(undisturbed, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(Exception, match="disabled"):
        rasterloom.open(undisturbed.recipe_file).sql(f"SELECT * FROM '{tmp_path}/secret.csv'")


def test_the_page_says_what_works(undisturbed, tmp_path, monkeypatch, capsys):
    block, _ = (block for block in blocks() if block.page == "docs/python.md" and block.kind == "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(undisturbed.recipe_file.read_text())
    exec(compile(block.text, "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "pairs      skip  done" in printed and "['main'" in printed and (tmp_path / "wide.png").exists()
