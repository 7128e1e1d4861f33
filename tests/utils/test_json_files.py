import json
import math

import numpy as np
import pytest

from rasterloom.utils.json_files import lines_of, read_json, to_json, write_json

MEASURED = {"loss": math.nan, "norms": [math.inf, 1.5, (-math.inf,)], "of": {"np": np.float64("nan"), "n": 3}}
STRICT = {"loss": None, "norms": [None, 1.5, [None]], "of": {"np": None, "n": 3}}


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_is_not_finite_is_null():
    assert strict(to_json(MEASURED)) == STRICT
    assert strict(to_json(MEASURED, indent=1, ensure_ascii=False)) == STRICT
    assert to_json(["ü"], ensure_ascii=False) == '["ü"]'


def test_a_file_is_written_whole_under_its_own_name(tmp_path):
    write_json(tmp_path / "record.json", MEASURED)
    assert read_json(tmp_path / "record.json") == STRICT
    strict((tmp_path / "record.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_line_ends_where_files_end_it_and_nowhere_else():
    assert lines_of("a\nb\r\nc\rd") == ["a", "b", "c", "d"]
    row = json.dumps({"prompt": "a\u2028b\x85c\x0bd\x1ce"}, ensure_ascii=False)
    assert lines_of(f"{row}\n{row}\n") == [row, row, ""]
