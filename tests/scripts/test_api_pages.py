"""The pages made from docstrings: `make site` makes them, and ends with an error where one is missing."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def api_pages():
    spec = importlib.util.spec_from_file_location("api_pages", ROOT / "scripts" / "api_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_module_without_a_page_is_found(api_pages, tmp_path):
    all_of_them = api_pages.without_page(tmp_path)
    assert len(all_of_them) > 300 and "rasterloom.recipe.run" in all_of_them
    page = tmp_path / "rasterloom" / "recipe" / "run.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert all_of_them - api_pages.without_page(tmp_path) == {"rasterloom.recipe.run"}


def test_only_modules_of_extras_have_no_page(api_pages):
    missing = api_pages.without_their_extra()
    assert missing == (
        {} if importlib.util.find_spec("triton") else {"rasterloom.train.model.triton_kernels": "triton"}
    )
