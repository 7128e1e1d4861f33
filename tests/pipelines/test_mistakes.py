"""Sentences of mistakes about a corpus that is there; see tests/cli/test_mistakes.py."""

import shlex

import pytest

from rasterloom.versions.refs import tag

REFS = "its branches and tags: main, v1"
STEPS = "pairs, images, scores, selection, text, codes/64, tokens/64, lengths/64, report"
SENTENCES = {
    "versions tag RECIPE v1": "there is a tag v1 already, at another version; delete it first",
    "versions show RECIPE V1": f"little has no branch, tag or snapshot V1; did you mean v1? {REFS}",
    "versions diff RECIPE v1 mian": f"little has no branch, tag or snapshot mian; did you mean main? {REFS}",
    "versions rollback RECIPE v2": f"little has no branch, tag or snapshot v2; {REFS}",
    "versions delete RECIPE main": "no branch or tag main that could be deleted; there are: v1",
    "versions export RECIPE full": "full is not empty: name a new folder",
    "versions adopt RECIPE images full": "full: no Parquet file there",
    "tokens show RECIPE 0 --target 512": (
        "--target 512: the corpus little has tokens of 64: tokenize the corpus at this target first"
    ),
    "tokens show RECIPE 999999": "there is no row 999999: target 64 has 39 rows, from 0",
    "tokens show RECIPE ffffffffff": (
        "no row of target 64 has the key ffffffffff: rasterloom explain RECIPE KEY says why"
    ),
    "explain RECIPE ffffffffff": (
        "no pair has the key, URL or path ffffffffff: the command failures lists keys"
    ),
    "run RECIPE --until codes/128": (f"no step is called codes/128; did you mean codes? the steps: {STEPS}"),
    "sample RECIPE --prompt x": "the recipe has no train section: --model takes any checkpoint",
    "sample RECIPE --prompt x --model nowhere": (
        "--model nowhere: no checkpoint there (expected a config.json)"
    ),
    "report RECIPE --compare V1": (
        "--compare V1: not a recipe (a .yaml file), a branch or tag (there are: main, v1), or the "
        "fingerprint of a trained stage (after the @ of: none yet)"
    ),
}


@pytest.fixture
def shop(workshop):
    """A corpus of its own: to a shared one, other tests add tags."""
    workshop.run("--until", "tokens")
    tag(workshop.corpus, "v1")
    workshop.write(keep="min_side >= 100").run("--until", "tokens")
    return workshop


def test_a_mistake_about_what_is_there(shop, rasterloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    recipe = str(shop.recipe_file)
    for command, sentence in SENTENCES.items():
        said = rasterloom(*shlex.split(command.replace("RECIPE", recipe)))
        assert said == (2, "", sentence + "\n"), command
