"""`corpus: name@tag` is read by every command as it was, whatever the recipe says now of how it is made."""

import json

import pytest

from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.history import log

TRAIN = """
train:
  init: tiny
  stages: [{target: 64, steps: 2, lr: 1.0e-3, batch_tokens: 1024}]
"""


@pytest.fixture
def pinned(two_versions, tmp_path):
    """A recipe that reads v1, with another rule, another score and sources that are gone."""
    text = two_versions.recipe_file.read_text()
    text = text.replace("corpus: little", "corpus: little@v1").replace(str(two_versions.site[0]), "/gone")
    text = text.replace("[flatness]", "[quality]").replace("min_side >= 100", "quality > 0.5")
    (tmp_path / "pinned.yaml").write_text(text)
    return tmp_path / "pinned.yaml"


@pytest.fixture
def kept(two_versions):
    return [row["key"] for row in two_versions.before["selection"] if row["kept"]]


def only_before(two_versions, kept):
    """A key that is kept in v1 and no more now."""
    now = {row["key"] for row in two_versions.rows("selection") if row["kept"]}
    return next(key for key in kept if key not in now)


def test_a_version_is_done(pinned):
    assert [p.step.name for p in Workflow(load_recipe(pinned)).plan("tokens") if p.runs] == []


def test_explain_tokens_and_failures_tell_of_the_version(pinned, two_versions, kept, rasterloom):
    key = only_before(two_versions, kept)
    code, printed, error = rasterloom("explain", pinned, key, "--format", "json")
    assert code == 0, error
    story = json.loads(printed)
    assert story["selection"]["kept"] == "yes" and story["tokens/64"]["bucket"]
    code, printed, error = rasterloom("tokens", "show", pinned, key)
    assert code == 0 and printed.startswith(key), error
    assert rasterloom("tokens", "show", two_versions.recipe_file, key)[0] == 2, "now there is none"
    code, printed, _ = rasterloom("failures", pinned, "--format", "json")
    dropped = {json.loads(line)["key"] for line in printed.splitlines()}
    assert code == 0 and key not in dropped and len(dropped) == len(two_versions.before["pairs"]) - len(kept)


def test_export_diff_and_lineage_take_the_version(pinned, two_versions, kept, rasterloom, tmp_path):
    code, printed, error = rasterloom("versions", "export", pinned, tmp_path / "out")
    assert code == 0 and f"{len(kept):,} samples" in printed, error
    code, printed, error = rasterloom("versions", "diff", pinned, "main", "--format", "json")
    found = {one["table"]: one for one in map(json.loads, printed.splitlines())}
    assert code == 0 and found["selection"]["changed"] > 0, error
    code, printed, error = rasterloom("versions", "lineage", pinned, only_before(two_versions, kept))
    assert code == 0 and "tokens/64@" in printed, error
    tokens = str(load_corpus(pinned).snapshot_id("tokens"))
    code, printed, error = rasterloom("versions", "lineage", pinned, tokens)
    assert code == 0 and "made of codes/64@" in printed, error


def load_corpus(recipe):
    from rasterloom.versions.corpus import Corpus

    return Corpus.of(load_recipe(recipe))


def test_training_and_the_report_take_the_version(pinned, two_versions, rasterloom):
    before = log(two_versions.corpus)
    pinned.write_text(pinned.read_text() + TRAIN)
    code, printed, error = rasterloom("run", pinned)
    assert code == 0, printed + error
    store = two_versions.corpus.store
    record = json.loads(store.read("little/records/train/1-64/last.json"))
    snapshot = load_corpus(pinned).snapshot_id("tokens")
    assert record["parents"]["tokens/64"] == str(snapshot) != str(two_versions.corpus.snapshot_id("tokens"))
    assert log(two_versions.corpus) == before, "no table has a new version"
    code, printed, error = rasterloom("report", pinned)
    assert code == 0 and "index.html" in printed, error
    by_snapshot = pinned.with_name("snapshot.yaml")
    by_snapshot.write_text(pinned.read_text().replace("little@v1", f"little@{snapshot}"))
    same = {p.step.name: p.step.fingerprint for p in Workflow(load_recipe(by_snapshot)).plan()}
    assert same["train/1-64"] == record["fingerprint"], "one snapshot of tokens trains the same"


def test_what_would_change_a_version_is_refused_before_anything_is_done(pinned, two_versions, rasterloom):
    before = two_versions.corpus.store.list("little/staging")
    for command in (["tokenize", pinned, "--target", "96"], ["run", pinned, "--retry", "timeout"]):
        code, printed, error = rasterloom(*command)
        assert code == 2 and "versions do not change" in error, printed + error
        assert "versions branch RECIPE NAME --at v1" in error and len(error.strip().splitlines()) == 1
    assert two_versions.corpus.store.list("little/staging") == before
    pinned.write_text(pinned.read_text().replace("targets: [64]", "targets: [64, 96]"))
    pinned.write_text(pinned.read_text() + TRAIN.replace("target: 64", "target: 96"))
    code, printed, error = rasterloom("plan", pinned)
    assert code == 2 and "has no tokens of 96, which train.stages names; it has tokens/64" in error
