import json
import re
from collections import Counter

import pytest

from rasterloom.errors import RecipeError
from rasterloom.pipelines.inspection.rule_trial import try_rule
from rasterloom.pipelines.workflow import Workflow
from rasterloom.versions.history import log


def test_the_counts_are_those_of_a_real_run(undisturbed, tmp_path):
    before = Counter(row["reason"] for row in undisturbed.rows("selection"))
    images = {row["key"]: row for row in undisturbed.rows("images")}
    middle = sorted(r["min_side"] for r in sides(images).values())[len(images) // 3]
    rule = f"min_side > {middle} or caption like '%no such thing%'"
    tried = try_rule(undisturbed.recipe, rule, tmp_path / "page.html")
    assert {name: now for name, (now, _) in tried.reasons.items() if now} == before

    other = undisturbed.write(keep=rule)
    other.run("--until", "selection")
    after = Counter(row["reason"] for row in other.rows("selection"))
    undisturbed.write().run("--until", "selection")
    assert {name: then for name, (_, then) in tried.reasons.items() if then} == after
    assert tried.trial.kept_after == after["kept"] < before["kept"] == tried.trial.kept_before
    assert tried.trial.newly_dropped - tried.trial.newly_kept == before["kept"] - after["kept"]
    assert sum(c.rows for c in tried.changes if not c.kept) == tried.trial.newly_dropped
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == sum(min(c.rows, 24) for c in tried.changes)
    assert "data:image/webp;base64," in page and "cannot be read" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)


def sides(images):
    return {
        key: {"min_side": min(row["width"], row["height"])}
        for key, row in images.items()
        if row["status"] == "ok"
    }


def test_nothing_is_run_and_the_same_rule_changes_nothing(undisturbed, tmp_path):
    versions = log(undisturbed.corpus)
    page = tmp_path / "page.html"
    tried = try_rule(undisturbed.recipe, "min_side >= 64 and true", page)
    assert tried.changes == ()
    assert "the same images are kept" in page.read_text()
    assert log(undisturbed.corpus) == versions
    assert not any(p.runs for p in Workflow(undisturbed.recipe).plan("tokens"))


def test_the_sample_is_the_same_on_every_run(undisturbed, tmp_path):
    pages = [tmp_path / name for name in ("a.html", "b.html")]
    for page in pages:
        try_rule(undisturbed.recipe, "flatness < 0.3", page)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_recipe_whose_own_rule_has_not_run_is_compared_all_the_same(undisturbed):
    other = undisturbed.write(keep="min_side >= 100")
    tried = try_rule(other.recipe, "min_side >= 64")
    undisturbed.write()
    assert tried.trial.rule_before == "min_side >= 100"
    assert tried.trial.newly_dropped == 0


def test_what_cannot_be_tried(undisturbed, workshop):
    with pytest.raises(RecipeError, match=r"names 'beauty', which is no column; .*known: flatness, min_side"):
        try_rule(undisturbed.recipe, "beauty > 1")
    with pytest.raises(RecipeError, match="the rule fails on a row"):
        try_rule(undisturbed.recipe, "caption::int > 1")
    with pytest.raises(RecipeError, match=r"images is not done \(new\): run the steps up to scores"):
        try_rule(workshop.recipe, "true")


def test_the_command(undisturbed, rasterloom, tmp_path):
    page = tmp_path / "x.html"
    code, out, _ = rasterloom("keep", undisturbed.recipe_file, "--try", "width > 100000", "--out", page)
    assert code == 0, out
    assert "rule: width > 100000" in out and "newly dropped" in out and page.exists()
    code, out, _ = rasterloom(
        "keep", undisturbed.recipe_file, "--try", "true", "--out", page, "--format", "json"
    )
    assert json.loads(out)["rule_after"] == "true"
    code, _, err = rasterloom("keep", undisturbed.recipe_file, "--try", "beauty > 1")
    assert code == 2 and "known: flatness" in err and len(err.strip().splitlines()) == 1
