"""The pages made from docstrings: one for each public module."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_each_public_module_has_a_page(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "api_pages.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    modules = {
        path.relative_to(ROOT).with_suffix("")
        if path.name != "__init__.py"
        else path.parent.relative_to(ROOT)
        for path in (ROOT / "rasterloom").rglob("*.py")
        if path.name != "__main__.py"
    }
    missing = {
        str(module).replace("/", ".") for module in modules if not (tmp_path / f"{module}.html").exists()
    }
    if importlib.util.find_spec("triton"):
        assert not missing
    else:
        assert missing == {"rasterloom.train.model.triton_kernels"}
        assert "no page for rasterloom.train.model.triton_kernels: triton is not installed" in done.stdout
