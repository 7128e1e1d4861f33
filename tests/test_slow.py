"""The lists of slow and of nightly tests name tests that there are, and leave every room some."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SLOW, NIGHTLY = (
    [line for line in (TESTS / name).read_text().splitlines() if line and not line.startswith("#")]
    for name in ("slow.txt", "nightly.txt")
)


@pytest.mark.parametrize("name", SLOW + NIGHTLY)
def test_it_names_tests_that_there_are(name: str) -> None:
    file, _, test = name.partition("::")
    path = TESTS.parent / file
    assert path.exists()
    assert path.is_dir() or f"def {test.partition('[')[0]}" in path.read_text()


def test_every_room_keeps_quick_tests() -> None:
    whole = {line for line in SLOW if "::" not in line}
    for folder in {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS / "differential"}:
        files = {str(path.relative_to(TESTS.parent)) for path in folder.glob("test_*.py")}
        assert files - whole, f"all of {folder} is slow"
