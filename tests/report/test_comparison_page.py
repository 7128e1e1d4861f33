"""Two sides on one page."""

import re
from pathlib import Path

import pytest

from rasterloom.report.comparison_page import Operand, count_line, figure_line, write_comparison


def cells(page: str) -> list[list[str]]:
    """The cells of every row of every table, tags and blanks taken off."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    return [
        [
            re.sub("<[^>]+>", "", cell).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


@pytest.fixture(scope="module")
def page(comparison: Path) -> str:
    return comparison.read_text()


def test_figures_and_funnel_stand_side_by_side(page: str) -> None:
    rows = cells(page)
    assert ["pairs", "60", "60", "the same"] in rows
    assert ["kept", "47", "40", "−7"] in rows
    assert ["rule: &lt;quality&gt;", "0", "7", "+7"] in rows
    assert ["held-out loss", "2.71", "2.44", "−10.0 %"] in rows
    assert ["– 64x64", "2.6", "2.6", "the same"] in rows


def test_the_curves_of_both_are_on_one_chart(page: str) -> None:
    (label,) = re.findall(r'aria-label="(Losses of A and B[^"]*)"', page)
    assert label.endswith("held out at the end: A 2.71, B 2.44")
    drawn = re.findall(r'<polyline class="(side [^"]*)" points="([^"]*)"', page)
    assert [kind for kind, _ in drawn] == ["side a", "side a held", "side b", "side b held"]
    starts = {kind: float(points.split()[0].split(",")[1]) for kind, points in drawn}
    assert starts["side a"] < starts["side b"], "6.5 lies above 5"


def test_only_settings_that_differ_are_listed(page: str) -> None:
    settings = page[page.index('id="settings"') : page.index('id="rows"')]
    assert cells(settings)[1:] == [["train/1", "stage.lr", "0.001", "0.003"]]


def test_drawings_of_shared_prompts_are_paired(page: str) -> None:
    samples = page[page.index('id="samples"') : page.index('id="evaluation"')]
    assert re.findall(r'alt="([^"]*)"', samples) == [
        "A generates: a &lt;disc&gt;",
        "B generates: a &lt;disc&gt;",
    ]
    training = page[page.index('id="training"') : page.index('id="samples"')]
    assert re.findall(r'alt="([AB] generates: [^"]*)"', training) == [
        f"{side} generates: {prompt}" for prompt in ("a &lt;dot&gt;", "two dots") for side in "AB"
    ]


def test_settings_of_samples_stand_beside_them(page: str) -> None:
    samples = page[page.index('id="samples"') : page.index('id="evaluation"')]
    assert "Both: guidance 3.0, temperature 1.0, top-k 2000." in samples


def test_rows_that_differ_are_shown(page: str) -> None:
    assert page.count("kept: True → False") == 7
    counts = next(row for row in cells(page) if row and row[0] == "tokens" and len(row) == 7)
    assert counts[1:5] == ["94", "80", "0", "14"]
    assert "<script" not in page and not re.search(r"""(?:src|href)=["']?https?:""", page)
    links = re.findall(r'href="#([^"]+)"', page)
    assert set(links) <= set(re.findall(r'id="([^"]+)"', page))


def test_sides_of_which_one_was_never_trained(make_workspace, some_items, tmp_path: Path) -> None:
    made = make_workspace()
    made.fill(some_items, targets=(64,))
    inputs = made.inputs()
    bare = Operand("a", made.corpus, {}, inputs.records, ())
    full = Operand("b", made.corpus, inputs.snapshots, inputs.records, (made.train("1-64"),))
    for number, (a, b) in enumerate(((bare, full), (full, bare), (bare, bare))):
        write_comparison(a, b, [], tmp_path / f"{number}.html")
    first, second, third = (cells((tmp_path / f"{n}.html").read_text()) for n in range(3))
    assert ["held-out loss", "–", "2.71", ""] in first and ["held-out loss", "2.71", "–", ""] in second
    assert not [row for row in (*first, *second) if row[0] == "kept"], "no data of one, none of the other"
    assert third == [], "nothing to say of either"


def test_changes_in_words() -> None:
    assert count_line("n", [5, 3]).change == "−2" and count_line("n", [3, 1003]).change == "+1,000"
    assert figure_line("x", [2.0, 2.0]).change == "the same"
    assert figure_line("x", [0.0, 2.0]).change == "", "no percent of nothing"
