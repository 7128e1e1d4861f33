import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom import recipe, schema
from rasterloom.filtering.keep import check_keep, select

GREY = bytes([128] * 192)
NO_DEDUP = recipe.Dedup(exact=False, phash_radius=None)


def images(*rows: dict[str, object]) -> pa.Table:
    """A row each: an image of its own, of 100 x 100 pixels, where the row does not say otherwise."""
    filled = []
    for number, row in enumerate(rows):
        rng = np.random.default_rng(number)
        common: dict[str, object] = {"key": f"k{number}", "shard": number // 3, "caption": "a cat"}
        ok = {
            "status": "ok",
            "sha256": f"{number:064x}",
            "phash": f"{rng.integers(2**63):016x}",
            "thumbnail": GREY,
            "width": 100,
            "height": 100,
            "original_width": 100,
            "original_height": 100,
        }
        filled.append(common | ({} if row.get("status") == "failed" else ok) | row)
    return pa.Table.from_pylist(filled, schema=schema.IMAGES).drop_columns(["image"])


def scores(table: pa.Table, **columns: list[float | None]) -> pa.Table:
    result = table.select(["key", "shard"])
    for name, values in columns.items():
        result = result.append_column(name, pa.array(values, pa.float64()))
    return result


def reasons(
    table: pa.Table, rule: str, dedup: recipe.Dedup = NO_DEDUP, **columns: list[float | None]
) -> list[str]:
    result = select(table, scores(table, **columns), recipe.Keep(rule=rule, dedup=dedup))
    assert result.schema == schema.SELECTION
    assert result["key"].equals(table["key"])
    assert result["shard"].equals(table["shard"])
    assert result["kept"].to_pylist() == [r == "kept" for r in result["reason"].to_pylist()]
    return result["reason"].to_pylist()


def test_each_row_has_its_reason() -> None:
    table = images(
        {},
        {"status": "failed", "error": "http_4xx"},
        {"width": 50},
        {"caption": "xxxxxxxxxxxx"},
        {"status": "failed"},
        {"width": 50, "caption": "xxxxxxxxxxxx"},
    )
    assert reasons(table, "min_side >= 64 and\n  caption_length < 10") == [
        "kept",
        "failed: http_4xx",
        "rule: min_side >= 64",
        "rule: caption_length < 10",
        "failed: unknown",
        "rule: min_side >= 64",
    ]


def test_null_is_not_kept() -> None:
    table = images({}, {}, {}, {"caption": None})
    found = reasons(table, "quality > 0.5 and caption_length > 0", quality=[0.6, None, 0.4, 0.9])
    no = "rule: quality > 0.5"
    assert found == ["kept", no, no, "rule: caption_length > 0"]
    assert reasons(images({}), "null") == ["rule: null"]


def test_derived_columns() -> None:
    table = images({"width": 300, "height": 200, "caption": "häh"})
    rule = "min_side = 200 and max_side = 300 and aspect = 1.5 and area = 60000 and caption_length = 3"
    assert reasons(table, rule) == ["kept"]
    assert reasons(images({"width": 60_000, "height": 60_000}), "area = 3600000000") == ["kept"]


def test_scores_may_come_in_any_order_and_some_be_missing() -> None:
    table = images({}, {}, {})
    turned = scores(table, quality=[0.1, 0.2, 0.3]).take([2, 0])
    found = select(table, turned, recipe.Keep(rule="quality = 0.3", dedup=NO_DEDUP))
    assert found["kept"].to_pylist() == [False, False, True]


def test_no_rows() -> None:
    assert reasons(images(), "quality > 1", quality=[]) == []
    assert reasons(images(), "true", recipe.Dedup()) == []


def test_duplicates_are_sought_among_what_the_rule_kept() -> None:
    table = images(
        {"sha256": "a", "original_width": 900, "caption": "no"},  # the largest, but the rule drops it
        {"sha256": "a", "original_width": 300},
        {"sha256": "a", "original_width": 200},
        {"phash": "0" * 16, "original_width": 300},
        {"phash": "0" * 15 + "f", "original_width": 400},
        {"status": "failed", "error": "timeout"},
    )
    result = select(table, scores(table), recipe.Keep(rule="caption <> 'no'"))
    assert result["reason"].to_pylist() == [
        "rule: caption <> 'no'",
        "kept",
        "exact duplicate",
        "near duplicate",
        "kept",
        "failed: timeout",
    ]
    assert result["duplicate_of"].to_pylist() == [None, None, "k1", "k4", None, None]


def test_the_preferred_score_ranks_before_the_area() -> None:
    table = images({"sha256": "a", "original_width": 900}, {"sha256": "a"}, {"sha256": "a"})
    dedup = recipe.Dedup(prefer="quality")
    found = reasons(table, "true", dedup, quality=[0.2, 0.9, None])
    assert found == ["exact duplicate", "kept", "exact duplicate"]


def test_a_dedup_of_neither_kind_keeps_duplicates() -> None:
    table = images({"sha256": "a", "phash": "0" * 16}, {"sha256": "a", "phash": "0" * 16})
    assert reasons(table, "true") == ["kept", "kept"]
    exact_only = recipe.Dedup(exact=True, phash_radius=None)
    assert reasons(table, "true", exact_only) == ["kept", "exact duplicate"]
    near_only = recipe.Dedup(exact=False)
    assert reasons(table, "true", near_only) == ["kept", "exact duplicate"]  # the same bytes all the same


def test_unusable_rules_and_preferences_are_refused() -> None:
    with pytest.raises(ValueError, match="names 'nsfw', which is no column"):
        check_keep(recipe.Keep(rule="nsfw < 1"), ["quality"])
    with pytest.raises(ValueError, match=r"dedup\.prefer names 'beauty', which is no score; known: quality"):
        check_keep(recipe.Keep(dedup=recipe.Dedup(prefer="beauty")), ["quality"])
    with pytest.raises(ValueError, match="names 'nsfw'"):
        reasons(images({}), "nsfw < 1")
    check_keep(recipe.Keep(rule="quality > 1", dedup=recipe.Dedup(prefer="quality")), ["quality"])


def test_a_rule_that_fails_on_a_row_says_so() -> None:
    with pytest.raises(ValueError, match=r"the rule fails on a row: .*'a cat'"):
        reasons(images({}), "caption::int > 3")
    assert reasons(images({}), "try_cast(caption as int) > 3") == ["rule: try_cast(caption as int) > 3"]


def test_what_failed_is_not_judged() -> None:
    table = images({"status": "failed", "error": "dns", "caption": "many"}, {"caption": "5"})
    assert reasons(table, "caption::int > 3") == ["failed: dns", "kept"]


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=3, max_size=60),
    bounds=st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_the_first_conjunct_that_says_no_is_the_reason(values: list[int | None], bounds: list[int]) -> None:
    table = images(*({} for _ in values))
    columns = {
        f"s{i}": [None if v is None else float(v * (i + 1) % 5) for v in values] for i in range(len(bounds))
    }
    conjuncts = [f"s{i} >= {bound}" for i, bound in enumerate(bounds)]
    expected = []
    for row in range(len(values)):
        expected.append("kept")
        for i, bound in enumerate(bounds):
            value = columns[f"s{i}"][row]
            if value is None or value < bound:
                expected[-1] = f"rule: {conjuncts[i]}"
                break
    assert reasons(table, " and ".join(conjuncts), **columns) == expected


def test_many_rows_keep_their_order() -> None:
    n = 300_000
    base = images({})
    table = base.take(pa.array(np.zeros(n, int)))
    keys = pa.array([f"{i * 7919 % n:032x}" for i in range(n)])
    table = table.set_column(0, "key", keys)
    numbers = np.arange(n, dtype=np.float64)
    result = select(
        table, scores(table, niqe=list(numbers)), recipe.Keep(rule="niqe % 3 = 0", dedup=NO_DEDUP)
    )
    assert result["key"].equals(table["key"])
    np.testing.assert_array_equal(result["kept"].to_numpy(), numbers % 3 == 0)
