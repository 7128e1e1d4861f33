import json

import pytest

from rasterloom.errors import RecipeError
from rasterloom.pipelines.inspection.explain import explain
from rasterloom.pipelines.inspection.failures import failures


def story(shop, key):
    return {chapter.title: dict(chapter.lines) for chapter in explain(shop.recipe, key)}


def of_reason(shop, reason):
    return next(row for row in shop.rows("selection") if row["reason"].startswith(reason))


def test_a_kept_image_from_its_pair_to_its_tokens(undisturbed):
    row = of_reason(undisturbed, "kept")
    told = story(undisturbed, row["key"][:12])
    pair = next(p for p in undisturbed.rows("pairs") if p["key"] == row["key"])
    tokens = next(t for t in undisturbed.rows("tokens") if (t["key"], t["target"]) == (row["key"], 64))
    assert list(told)[:5] == ["pair", "images", "scores", "selection", "tokens/64"]
    assert told["pair"]["url"] == pair["url"]
    assert told["images"]["status"] == "ok" and "thumbnail" not in told["images"]
    assert float(told["scores"]["flatness"]) <= 1
    assert told["selection"]["reason"] == "kept"
    assert told["selection"]["rule: min_side >= 64"].startswith("yes (min_side ")
    assert told["tokens/64"]["bucket"] == tokens["bucket"]
    assert told["tokens/64"]["n_tokens"] == str(tokens["n_tokens"])


def test_a_failed_image_is_not_judged(undisturbed):
    row = of_reason(undisturbed, "failed: ")
    told = story(undisturbed, row["key"])
    assert told["images"]["error"] == row["reason"].removeprefix("failed: ")
    assert told["images"]["detail"]
    assert not any(name.startswith("rule: ") for name in told["selection"])
    assert told["tokens/64"] == {"none": "only selected images are tokenized"}


def test_a_duplicate_and_what_is_kept_instead_name_each_other(undisturbed):
    row = next(r for r in undisturbed.rows("selection") if r["duplicate_of"])
    told = story(undisturbed, row["key"])["selection"]
    assert told["kept"] == "no"
    assert told["kept instead"] == row["duplicate_of"]
    assert "of 64 bits differ" in told["its perceptual hash"]
    assert row["key"] in story(undisturbed, row["duplicate_of"])["selection"]["kept instead of"]


def test_what_is_not_done_says_why(undisturbed):
    key = of_reason(undisturbed, "kept")["key"]
    told = story(undisturbed.write(keep="min_side >= 100"), key)
    undisturbed.write()
    assert told["selection"] == {
        "not done": "config changed: selection.rule min_side >= 64 -> min_side >= 100"
    }
    assert told["scores"]["flatness"]


def test_wrong_keys(undisturbed, workshop):
    with pytest.raises(RecipeError, match="no pair has the key, URL or path zzz"):
        explain(undisturbed.recipe, "zzz")
    with pytest.raises(RecipeError, match=r"\d+ pairs have a key, URL or path like : [0-9a-f]{32}, "):
        explain(undisturbed.recipe, "")
    with pytest.raises(RecipeError, match="there are no pairs yet"):
        explain(workshop.recipe, "aa")


def test_the_command_prints_it(undisturbed, rasterloom):
    lost = failures(undisturbed.recipe)[0]
    code, out, _ = rasterloom("explain", undisturbed.recipe_file, lost.key)
    assert code == 0 and lost.reason in out and "\n  url: " in out
    code, out, _ = rasterloom("explain", undisturbed.recipe_file, lost.key, "--format", "json")
    assert json.loads(out)["selection"]["reason"] == lost.reason
    code, _, err = rasterloom("explain", undisturbed.recipe_file, "zzz")
    assert code == 2 and len(err.strip().splitlines()) == 1
