import pyarrow as pa
import pytest

from rasterloom.filtering.caption_rule import check_caption_rule, passing
from rasterloom.recipe.captions import RULE
from rasterloom.schema import CAPTIONS


def rows(*given):
    base = dict.fromkeys(("refusal", "boilerplate", "echo", "names_model"), False) | {"repetition": 0.0}
    return pa.Table.from_pylist([base | row for row in given], schema=CAPTIONS)


def test_rows_pass_in_their_order():
    table = rows({"words": 3}, {"words": 30, "refusal": True}, {"words": 20}, {"words": 9, "repetition": 0.9})
    assert passing(table, RULE)["words"].to_pylist() == [3, 20]
    assert passing(table, "words > 5")["words"].to_pylist() == [30, 20, 9]
    assert passing(table, "language = 'en'")["words"].to_pylist() == []  # it is not known


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("refusall", "did you mean refusal"),
        ("words", "not true or false"),
        ("words >", "cannot be used"),
        ("(select true from read_csv('/etc/passwd'))", "cannot be used"),
        ("count(*) > 1", "cannot be used|not true"),
    ],
)
def test_rules_that_are_none(rule, words):
    with pytest.raises(ValueError, match=words):
        check_caption_rule(rule)


def test_the_default_is_one():
    check_caption_rule(RULE)
