import io

import numpy as np
import pyarrow as pa
import pytest
from chromium import launched
from PIL import Image

from rasterloom.pipelines.models.suite_step import SCHEMA
from rasterloom.report.suite_page import PROMPTS, Figure, Judged, figures_of, suite_page
from rasterloom.utils.intervals import wilson


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mark(judge, skill, score, question=""):
    return {"judge": judge, "skill": skill, "score": score, "question": question}


def table(prompts, right):
    rows = [
        {
            "number": number,
            "prompt": prompt,
            "category": "animals",
            "seed": seed,
            "image": png(),
            "totals": [mark("scene", "all", float(right)), mark("clip", "clip", 0.2 + 0.1 * seed)],
            "marks": [mark("scene", "count", float(right), "How many <cows>?")],
            "notes": [("scene", "a <blob>")],
        }
        for seed in (1, 0)
        for number, prompt in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def test_figures_are_means_with_their_intervals():
    whole, clip, count = figures_of(table(["a", "b"], right=True))
    assert whole == Figure("scene", "all", 1.0, *wilson(4, 4), 4, True)
    assert (count.name, count.is_whole, count.text) == ("count", False, "100 % (51 to 100)")
    error = 1.96 * np.std([0.2, 0.2, 0.3, 0.3], ddof=1) / 2
    assert (clip.mean, clip.low, clip.high) == pytest.approx((0.25, 0.25 - error, 0.25 + error), abs=1e-5)
    assert clip.text == "0.25 (0.1934 to 0.3066)"


def test_checkpoints_stand_side_by_side_and_what_is_wrong_is_framed():
    rows = [table(["two <cows>", "a cat"], right) for right in (True, False)]
    names = ["1-64", "<b>2-128"]
    html = suite_page("corpus", "animals", "2 prompts", [
        Judged(name, of, figures_of(of)) for name, of in zip(names, rows, strict=True)
    ])  # fmt: skip
    assert html.count('alt="drawn for: ') == 8 and html.count('class="wrong"') == 4
    assert "two &lt;cows&gt;" in html and "<cows>" not in html and "<b>2" not in html
    assert "100 % (51 to 100)" in html and "0 % (0 to 49)" in html
    assert "not: How many &lt;cows&gt;?" in html and "scene: a &lt;blob&gt;" in html
    first, second = html.index("seed 0"), html.index("seed 1")
    assert first < second, "in the order of the seeds"


def test_a_page_stays_small_enough_for_a_browser():
    rows = table([f"prompt {n}" for n in range(PROMPTS + 3)], right=True)
    html = suite_page("corpus", "many", "", [Judged("1-64", rows, figures_of(rows))])
    assert html.count("<bdi>prompt ") == PROMPTS and "3 more prompts are in the table" in html


OVERLAPPING = """() => { const r = [...document.images].map(i => i.getBoundingClientRect());
    return r.filter((a, n) => r.some((b, m) => m > n && a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length; }"""


@pytest.mark.parametrize("width", [390, 1440])
def test_images_do_not_cover_one_another(tmp_path, width):
    of = table(["a man in a dark coat", "a cat"], right=False)
    judged = [Judged(f"{number}-64", of, figures_of(of)) for number in range(1, 5)]
    (tmp_path / "suite.html").write_text(suite_page("corpus", "animals", "2 prompts", judged))
    with launched() as browser:
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.goto((tmp_path / "suite.html").as_uri())
        assert page.evaluate("document.images.length") == 16
        assert page.evaluate(OVERLAPPING) == 0
