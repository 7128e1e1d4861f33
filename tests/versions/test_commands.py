"""The commands of `rasterloom versions`, as a user types them."""

import json

import pytest


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://example.org/a.jpg,a\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"corpus: demo\nworkspace: {tmp_path}\nsources: [{{path: pairs.csv}}]\n")
    return file


@pytest.fixture
def two_versions(recipe, corpus, publish, tokens, selection):
    """Version v1 tagged, and another after it."""
    assert corpus.store.root == str(recipe.parent)
    publish(corpus, "s1", selection("AB"), step="selection")
    publish(corpus, "t1", tokens("ab"), inputs={"selection": "s1"})
    return lambda: publish(corpus, "t2", tokens("abc"), inputs={"selection": "s1"})


def test_tag_show_diff_rollback(rasterloom, recipe, corpus, two_versions):
    code, printed, _ = rasterloom("versions", "tag", recipe, "v1")
    assert code == 0 and "demo@v1: selection " in printed
    two_versions()
    code, printed, _ = rasterloom("versions", "diff", recipe, "v1", "--table", "tokens", "--format", "json")
    assert code == 0
    assert json.loads(printed)["added"] == 1 and json.loads(printed)["examples"]["added"] == ["c"]
    code, printed, _ = rasterloom("versions", "diff", recipe, "v1")
    assert code == 0 and "tokens, added: c" in printed
    code, printed, _ = rasterloom("versions", "show", recipe, "v1")
    assert code == 0 and "fingerprint: t1" in printed and "fingerprint: t2" not in printed
    code, printed, _ = rasterloom("versions", "rollback", recipe, "v1")
    assert code == 0 and printed.startswith("tokens: ")
    assert corpus.read("tokens").num_rows == 2
    assert "main is at v1 already" in rasterloom("versions", "rollback", recipe, "v1")[1]
    code, printed, _ = rasterloom("versions", "log", recipe)
    assert code == 0 and printed.count("tokens/64") == 2 and "v1" in printed


def test_a_branch_is_a_corpus_of_a_recipe(rasterloom, recipe, publish, tokens, two_versions):
    assert rasterloom("versions", "branch", recipe, "trial")[0] == 0
    two_versions()
    recipe.write_text(recipe.read_text().replace("corpus: demo", "corpus: demo@trial"))
    code, printed, _ = rasterloom("versions", "show", recipe)
    assert code == 0 and "fingerprint: t1" in printed, "the recipe's own version"
    code, printed, _ = rasterloom("versions", "show", recipe, "main")
    assert "fingerprint: t2" in printed
    code, printed, _ = rasterloom("versions", "list", recipe, "--format", "json")
    assert [json.loads(line)["name"] for line in printed.splitlines()] == ["main", "trial"]
    code, printed, _ = rasterloom("versions", "delete", recipe, "trial")
    assert code == 0 and "branch trial of demo is gone" in printed


def test_lineage(rasterloom, recipe, two_versions):
    two_versions()
    code, printed, _ = rasterloom("versions", "lineage", recipe, "tokens/64")
    assert code == 0 and "made of selection@" in printed
    code, printed, _ = rasterloom("versions", "lineage", recipe, "selection", "--onward")
    assert code == 0 and printed.count("tokens/64@") == 2
    code, _, error = rasterloom("versions", "lineage", recipe, "nothing")
    assert code == 2 and "no pair has it as key, URL or SHA-256" in error


def test_verify(rasterloom, recipe, corpus, two_versions):
    code, printed, _ = rasterloom("versions", "verify", recipe)
    assert code == 0 and "tokens: 1 of 1 files and 2 of 2 rows stand" in printed
    (file,) = corpus.files("tokens")
    corpus.store.delete(file.name)
    code, printed, _ = rasterloom("versions", "verify", recipe)
    assert code == 1 and "is not there" in printed and "tokens: 0 of 1 files" in printed


def test_a_version_that_is_not_there(rasterloom, recipe, two_versions):
    code, _, error = rasterloom("versions", "diff", recipe, "v7")
    assert code == 2 and "no branch, tag or snapshot v7" in error
    recipe.write_text(recipe.read_text().replace("corpus: demo", "corpus: demo@v7"))
    code, _, error = rasterloom("versions", "log", recipe)
    assert code == 2 and "no branch, tag or snapshot v7" in error


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_version_that_is_not_there_begins_no_branch(rasterloom, recipe, corpus, two_versions, command):
    recipe.write_text(recipe.read_text().replace("demo", "demo@v1"))
    code, printed, said = rasterloom(command, recipe)
    assert (code, printed) == (2, "")
    assert "demo has no branch, tag or snapshot v1; its branches and tags: main" in said
    assert "with corpus: demo: rasterloom versions branch RECIPE v1" in said
    assert corpus.table("pairs") is None and list(corpus.table("tokens").refs()) == ["main"]
    recipe.write_text(recipe.read_text().replace("demo@v1", "demo"))
    assert rasterloom("versions", "branch", recipe, "v1")[0] == 0
    recipe.write_text(recipe.read_text().replace("demo", "demo@v1"))
    assert rasterloom("plan", recipe)[0] == 0
