"""Free memory, as Linux tells of a machine and of a container."""

import math
from pathlib import Path

import psutil
import pytest

from rasterloom.utils.free_memory import free_memory

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"


def test_it_is_what_another_tool_finds(tmp_path: Path) -> None:
    assert free_memory(container=tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.1)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 600 * 1024), ("500000\n", 500_000 - 400_000 + 7_000), ("9000000\n", 600 * 1024)],
)
def test_a_container_has_a_limit_of_its_own(tmp_path: Path, limit: str, expected: int) -> None:
    """Files that the kernel would drop from its cache are not counted as used."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nfile 9000\ninactive_file 7000\n")
    assert free_memory(tmp_path / "meminfo", tmp_path) == expected


def test_a_system_that_does_not_say_has_no_limit(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "meminfo", tmp_path) == math.inf
