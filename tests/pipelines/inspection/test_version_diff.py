"""The page on what differs between two versions."""

import re


def test_the_gallery_shows_rows_that_changed(two_versions, rasterloom, tmp_path):
    page = tmp_path / "pages" / "diff.html"
    code, printed, error = rasterloom(
        "versions", "diff", two_versions.recipe_file, "v1", "main", "--html", page
    )
    assert code == 0 and f"gallery: {page}" in printed, error
    kept = {row["key"]: row["kept"] for row in two_versions.before["selection"]}
    dropped = [r["key"] for r in two_versions.rows("selection") if kept[r["key"]] and not r["kept"]]
    text = page.read_text()
    assert dropped and text.count("kept: True → False") == min(len(dropped), 24)
    assert "reason: kept → rule: min_side &gt;= 100" in text
    assert text.count("data:image/webp;base64,") == text.count("<img ") > 0
    assert not re.search(r"""(?:src|href)=["']?https?:""", text)
    again = tmp_path / "again.html"
    rasterloom("versions", "diff", two_versions.recipe_file, "v1", "main", "--html", again)
    assert again.read_text() == text, "the sample is the same"


def test_rows_of_one_version_only(two_versions, rasterloom, tmp_path):
    page = tmp_path / "diff.html"
    recipe = two_versions.recipe_file
    more = recipe.with_name("more.yaml")
    more.write_text(recipe.read_text().replace("corpus: little", "corpus: little@fewer"))
    assert rasterloom("versions", "branch", recipe, "fewer", "--at", "v1")[0] == 0
    lines = [line for line in more.read_text().splitlines() if "pairs-photos" not in line]
    more.write_text("\n".join(lines))
    from rasterloom.cli.options import out
    from rasterloom.pipelines.progress.reporter import Progress
    from rasterloom.pipelines.run import run
    from rasterloom.pipelines.workflow import Workflow
    from rasterloom.recipe.loader import load_recipe

    run(Workflow(load_recipe(more)), "images", Progress(out))
    for a, b, title in (("v1", "fewer", "only in A"), ("fewer", "v1", "only in B")):
        code, _, error = rasterloom("versions", "diff", recipe, a, b, "--table", "images", "--html", page)
        assert code == 0, error
        assert title in page.read_text() and "<img " in page.read_text()
    code, _, _ = rasterloom("versions", "diff", recipe, "v1", "v1", "--html", page)
    assert code == 0 and "Nothing differs" in page.read_text()
    assert rasterloom("versions", "delete", recipe, "fewer")[0] == 0  # other modules read this corpus, too


def test_two_versions_side_by_side(two_versions, rasterloom, tmp_path):
    page = tmp_path / "pages" / "compare.html"
    code, printed, error = rasterloom("report", two_versions.recipe_file, "--compare", "v1", "--out", page)
    assert code == 0 and f"comparison: {page}" in printed, error
    text = page.read_text()
    before, after = (
        {row["key"]: row for row in of}
        for of in (two_versions.before["selection"], two_versions.rows("selection"))
    )
    kept = [sum(row["kept"] for row in of.values()) for of in (before, after)]
    changed = [key for key in before if before[key] != after[key]]
    dropped = [key for key in changed if before[key]["kept"] and not after[key]["kept"]]
    assert kept[1] < kept[0]
    assert f"<td>{kept[0]}</td><td>{kept[1]}</td><td>−{kept[0] - kept[1]}</td>" in text
    assert "<td>rule</td>" in text and "min_side &gt;= 100" in text
    shown = text.count("kept: True → False")  # 12 rows of those that changed, some in another way
    assert 12 - (len(changed) - len(dropped)) <= shown <= min(len(dropped), 12)
    assert 'id="training"' not in text, "neither was trained on"
    again = tmp_path / "again.html"
    rasterloom("report", two_versions.recipe_file, "--compare", "v1", "--out", again)
    assert again.read_text() == text, "the sample is the same"


def test_compared_recipes_are_named_after_their_files(two_versions, rasterloom, tmp_path):
    recipe, page = two_versions.recipe_file, tmp_path / "compare.html"
    for other, names in (
        (tmp_path / "strict.yaml", ("strict.yaml", recipe.name)),
        (tmp_path / recipe.name, (tmp_path / recipe.name, recipe)),  # two of one name: their folders, too
    ):
        other.write_text(recipe.read_text())
        code, _, error = rasterloom("report", recipe, "--compare", other, "--out", page)
        assert code == 0, error
        title = f"<title>little of {names[0]} and little of {names[1]} · Rasterloom</title>"
        assert title in page.read_text()


def test_what_a_comparison_takes(two_versions, rasterloom, tmp_path):
    recipe, page = two_versions.recipe_file, tmp_path / "compare.html"
    code, _, error = rasterloom("report", recipe, "--compare", "v2", "--out", page)
    assert (
        code == 2
        and "--compare v2: not a recipe" in error
        and "there are: main, " in error
        and "v1)" in error
    )
    code, _, error = rasterloom("report", recipe, "--compare", "selection", "--out", page)
    assert code == 2 and "is not a trained stage" in error
    code, _, error = rasterloom("report", recipe, "--compare", "gone.yaml", "--out", page)
    assert code == 2 and "gone.yaml" in error
    empty = recipe.with_name("empty.yaml")
    empty.write_text(recipe.read_text().replace("corpus: little", "corpus: another"))
    code, _, error = rasterloom("report", recipe, "--compare", empty, "--out", page)
    assert code == 2 and "another of empty.yaml has no results yet" in error
    assert not page.exists()
