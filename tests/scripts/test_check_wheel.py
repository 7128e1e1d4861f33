"""The check of the wheel sees what is missing."""

import importlib.util
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_wheel.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_wheel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "rasterloom-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rasterloom/__init__.py", "")
        archive.writestr("rasterloom/left.py", "")
        archive.writestr(
            "rasterloom-1.dist-info/METADATA",
            "Name: rasterloom\nRequires-Dist: rich>=13\nRequires-Dist: polars; extra == 'dev'\n",
        )
    return path


def test_a_file_that_is_missing_or_left_over_is_named(check, wheel):
    faults = check.missing_files(wheel, ["rasterloom/__init__.py", "rasterloom/page.css"])
    assert faults == ["not in the wheel: rasterloom/page.css", "not in git: rasterloom/left.py"]


def test_what_is_linked_is_what_is_required(check, wheel, tmp_path):
    chosen = check.needed(check.requirements(wheel))
    assert {"rich", "pygments", "markdown-it-py"} <= set(chosen)
    assert not {"polars", "numpy", "ray"} & set(chosen)
    check.link(chosen, tmp_path / "site")
    assert (tmp_path / "site" / "rich").is_symlink() and not (tmp_path / "site" / "polars").exists()


def test_extras_of_requirements_are_followed(check):
    assert "sqlalchemy" in check.needed(["pyiceberg[sql-sqlite]"])
    assert "sqlalchemy" not in check.needed(["pyiceberg"])


def test_modules_of_extras_may_be_missing_and_no_others(check):
    assert check.optional(["rich>=13", "starlette>=1; extra == 'serve'", "rich; extra == 'dev'"]) == [
        "starlette"
    ]
    required = ["uvloop; platform_system != 'Nowhere'"]
    assert not check.optional(required)
