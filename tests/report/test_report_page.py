import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rasterloom.report.report_page import build_report
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus

SECTIONS = ("funnel", "images", "failures", "scores", "tokens", "codec", "versions", "time", "recipe")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would see: ids, attributes and tags; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


def test_every_section_is_there_and_in_the_navigation(full: Path) -> None:
    page = Page(full.read_text())
    assert page.sections == ["funnel", "samples", "training", "evaluation", *SECTIONS[1:]]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["#main", *(f"#{name}" for name in page.sections)]


def test_the_page_needs_no_other_file_and_no_network(full: Path) -> None:
    page = Page(full.read_text())
    assert sorted(p.name for p in full.parent.iterdir()) == [
        "README.md",
        "index.html",
    ]  # the card, not needed
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base")
        assert attributes.get("src", "data:").startswith("data:image/webp;base64,") or tag != "img"
        assert not {"srcset", "action", "data", "xlink:href"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in full.read_text().split("</style>")[0]
    assert "default-src 'none'" in full.read_text()
    assert full.stat().st_size < 3_000_000


def test_all_bars_of_the_funnel_have_the_scale_of_all_pairs(full: Path, some_items) -> None:
    text = full.read_text()
    funnel = text[text.index('id="funnel"') : text.index('id="samples"')]
    bars = re.findall(r'style="width: ([\d.]+)%"></span></span>\s*<span class="number">([\d,]+)<', funnel)
    assert len(bars) > 8
    for width, rows in bars:
        assert float(width) == pytest.approx(100 * int(rows.replace(",", "")) / len(some_items))


def test_strangers_text_stays_text(full: Path) -> None:
    text = full.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;caption&#39;)&lt;/script&gt;" in text
    assert "&lt;b&gt;javascript:&lt;/b&gt;" in text  # the detail of a failure
    assert "javascript:alert(1)" in text  # the URL, to be read
    assert not re.search(r'(href|src)="?javascript', text)
    assert "disc &lt;0&gt;" in text
    assert "&lt;recipe&gt; &amp; more" in text


def test_every_image_says_what_it_is(full: Path) -> None:
    tags = Page(full.read_text()).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) > 40
    assert all(attributes["alt"] for attributes in pictures)
    charts = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(charts) == 3 + 2 + 1  # scores, stages, lineage
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_the_figures_are_those_of_the_tables(full: Path) -> None:
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", full.read_text().split("</style>")[1]))
    assert "scenes@main · recipe feedc0de · last step " in text
    assert "pairs 60" in text
    assert "fetched 54 90.0 % of pairs" in text
    assert "kept 47 78.3 % of pairs" in text
    assert "6 of 60 lost for 4 reasons" in text
    assert "all right 57 of 60" in text
    assert "colour 57 60 95 % 86 to 98 %" in text
    assert "held-out loss 2.71 after stage 2-128" in text


def test_training_is_shown_step_by_step_and_evaluations_side_by_side(full: Path) -> None:
    text = full.read_text()
    for stage in ("1-64", "2-128"):
        assert f"Stage {stage} learns to draw" in text
    assert text.count('alt="a &lt;dot&gt;, at step ') == 2 * 3
    rows = dict(re.findall(r'<tr><th scope="row">([^<]+)</th>((?:<td>[^<]*</td>)+)</tr>', text))
    assert re.findall("<td>(.*?)</td>", rows["measured on rows of"]) == [
        "64 (36 held out)",
        "128 (36 held out)",
    ]
    assert re.findall("<td>(.*?)</td>", rows["CLIP-FD"]) == ["0.123", "0.123"]
    assert re.findall("<td>(.*?)</td>", rows["– &lt;edit&gt;"]) == ["2.51", "2.51"]
    assert "24.0 dB, SSIM 0.812" in text and text.count("CLIP-FD is of few &lt;pictures&gt;.") == 1
    assert "by task and bucket" in text


def test_without_training_and_samples_their_sections_are_left_out(workspace, tmp_path: Path) -> None:
    page = Page(build_report(workspace.inputs(), tmp_path).read_text())
    assert page.sections == list(SECTIONS)


def test_without_a_codec_and_scores_the_rest_is_there(workspace, tmp_path: Path) -> None:
    inputs = replace(workspace.inputs(), decode=None, recipe_text="")
    snapshots = {k: v for k, v in inputs.snapshots.items() if k in ("pairs", "images")}
    page = Page(build_report(replace(inputs, snapshots=snapshots), tmp_path).read_text())
    assert page.sections == ["funnel", "failures", "scores", "versions", "time"]


def test_a_workspace_without_anything_gives_a_page_that_says_so(make_workspace, tmp_path: Path) -> None:
    inputs = replace(make_workspace().inputs(), recipe_text="")
    text = build_report(inputs, tmp_path / "deep" / "er").read_text()
    assert Page(text).sections == []
    assert "Nothing has been made yet" in text


def test_a_corpus_on_s3_gives_the_same_page(
    workspace, make_workspace, some_items, seaweedfs, s3, tmp_path
) -> None:
    there = make_workspace()
    there.corpus = Corpus("scenes", Store(f"{s3}/report"), tuple(sorted(seaweedfs.catalog.items())))
    there.fill(some_items)
    texts = [
        build_report(made.inputs(), tmp_path / name).read_text()
        for name, made in (("a", there), ("b", workspace))
    ]
    pictures = [re.findall(r'src="(data:image[^"]*)"', text) for text in texts]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 40
    failures = [text[text.index('id="failures"') : text.index('id="scores"')] for text in texts]
    assert failures[0] == failures[1]
