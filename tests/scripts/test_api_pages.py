"""The pages made from docstrings: one for each public module."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_each_public_module_has_a_page(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "api_pages.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    modules = {
        path.relative_to(ROOT).with_suffix("")
        if path.name != "__init__.py"
        else path.parent.relative_to(ROOT)
        for path in (ROOT / "rasterloom").rglob("*.py")
        if path.name != "__main__.py"
    }
    missing = {str(module) for module in modules if not (tmp_path / f"{module}.html").exists()}
    assert not missing
