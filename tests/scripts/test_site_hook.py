"""The docs as a site: each page, each link, and nothing from other hosts."""

import re
import sys
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import site_hook  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a page that is not in `nav`, or a link to nothing, fails."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    build(config)
    return folder


def test_each_page_of_the_docs_is_a_page(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"} | {"index"}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_words_of_the_pages_are_found(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    assert "takedown" in index and "img2dataset" in index


def test_blocks_that_are_checked_are_blocks(site: Path) -> None:
    assert "```" not in (site / "quickstart.html").read_text()


def test_a_page_asks_nothing_of_other_hosts(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"(https?:[^\"]*)|<link[^>]*rel=\"stylesheet\"[^>]*href=\"(https?:[^\"]*)"
    )
    for page in site.glob("*.html"):
        assert not loads.search(page.read_text()), page.name
    assert "github.com/repos" not in (site / "index.html").read_text()


def test_links_out_of_the_docs_lead_to_the_repository() -> None:
    assert site_hook.address("infra/s3", "https://x.org/r") == "https://x.org/r/tree/main/infra/s3"
    assert site_hook.address("README.md", "https://x.org/r") == "https://x.org/r/blob/main/README.md"


def test_a_link_to_a_file_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        site_hook.address("no/such.file", "https://x.org/r")
