"""The tree and the files that the pages for contributors name are those that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rasterloom"
PAGES = ("docs/architecture.md", "AGENTS.md", "CONTRIBUTING.md")
ROOMS = sorted(str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"`([\w/.-]+(?:\.py|\.md|\.txt|\.lock|/))`", (ROOT / page).read_text())
    assert len(named) > 10
    missing = [name for name in named if not any((root / name).exists() for root in (ROOT, PACKAGE))]
    rooms = {room.rpartition("/")[2] + "/" for room in ROOMS}
    assert not [
        name for name in missing if name not in rooms and not name.startswith(("work/", "staging/", "files/"))
    ]


def test_functions_that_the_page_names_are_in_their_files() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    found = re.findall(r"`(\w+)` of `([\w/]+\.py)`", text)
    assert len(found) >= 6
    for function, file in found:
        assert f"def {function}(" in (PACKAGE / file).read_text(), (function, file)


def test_the_tree_shows_every_folder() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    tree = text.partition("```text\nrasterloom/\n")[2].partition("```")[0]
    rooms, top = ["."], ""
    for indent, name in re.findall(r"^( +)(\w+)/ ", tree, re.MULTILINE):
        top = top if len(indent) > 2 else name
        rooms.append(name if len(indent) == 2 else f"{top}/{name}")
    assert sorted(rooms) == ROOMS


def test_the_table_is_the_same_on_every_page() -> None:
    tables = {
        re.findall(r"^\| question .*\n(?:\|.*\n)+", (ROOT / page).read_text(), re.M)[0] for page in PAGES
    }
    assert len(tables) == 1
