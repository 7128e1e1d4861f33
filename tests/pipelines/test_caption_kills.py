"""More rounds of kills in the middle of captions than tests/pipelines/corpus/test_caption_steps.py has."""

import importlib.util
from pathlib import Path

import pytest
from caption_endpoint import serving

_file = Path(__file__).parent / "corpus" / "test_caption_steps.py"
_spec = importlib.util.spec_from_file_location("caption_steps", _file)
steps = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(steps)


@pytest.mark.parametrize("round_", range(10))
def test_rounds_of_kills(tmp_path, warm_ray, round_):
    with serving() as (endpoint, url):
        steps.after_kills(steps.Shop(tmp_path, endpoint, url), 2)
