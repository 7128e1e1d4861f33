from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard

from rasterloom.report import dataset_card
from rasterloom.report.report_page import build_report


@pytest.fixture(scope="module")
def written(workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = replace(
        workspace.inputs(), recipe_text="corpus: scenes\nkeep: quality >= 1 | 2\n```\n# no heading"
    )
    return build_report(inputs, tmp_path_factory.mktemp("card")).with_name("README.md")


def test_the_hub_reads_the_front_matter(written: Path) -> None:
    read = DatasetCard.load(written)
    assert read.data.pretty_name == "scenes"
    assert read.data.license == "unknown"  # no source of these pairs tells one
    assert read.data.task_categories == ["text-to-image"]
    assert read.data.size_categories == ["n<1K"]
    assert read.text.startswith("# scenes") or "\n# scenes\n" in read.text


def test_the_card_adds_up_and_names_its_version(written: Path, workspace) -> None:
    lines = written.read_text().splitlines()
    assert "47 captioned images, kept of 60 pairs." in "\n".join(lines)
    for line in (
        "| **fetched** | 54 |",
        "| **kept** | 47 |",
        "| lost: refused or gone | 3 |",
        "| lost: duplicate | 2 |",
    ):
        assert line in lines
    assert f"| selection | {workspace.corpus.snapshot_id('selection')} |" in lines
    assert any("scenes@main" in line and "`feedc0de`" in line for line in lines)
    assert "| test | 47 |" in lines and "| not known | 47 |" in lines  # source and licence
    (quality,) = (line for line in lines if line.startswith("| quality |"))
    kept = sorted([3 + i % 7 for i in range(46)] + [5])
    assert quality.split("|")[3].strip() == str(kept[len(kept) // 2])


def test_what_strangers_wrote_stays_in_its_place(written: Path) -> None:
    text = written.read_text()
    assert text.count("```") == 2, "the recipe cannot end its block"
    assert dataset_card.cell("a | b <img src=x>\nc") == "a \\| b &lt;img src=x> c"
    front, _, _ = (
        dataset_card.front_matter("a: b\n---\n# x", 5, ["<b>"]).removeprefix("---\n").rpartition("---\n")
    )
    assert yaml.safe_load(front)["pretty_name"] == "a: b\n---\n# x"


@pytest.mark.parametrize(
    ("told", "hub"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0"),
        ("CC0 1.0", "cc0-1.0"),
        ("MIT", "mit"),
        ("not known", "unknown"),
        ("", "unknown"),
        ("ask my aunt", "other"),
    ],
)
def test_licences_by_the_hubs_names(told: str, hub: str) -> None:
    assert dataset_card.licence(told) == hub


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (10_000_000, "10M<n<100M"),
        (2 * 10**12, "n>1T"),
    ],
)
def test_sizes_by_the_hubs_names(rows: int, size: str) -> None:
    assert dataset_card.size_category(rows) == size
