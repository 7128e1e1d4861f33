from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom import schema
from rasterloom.filtering import selection
from rasterloom.filtering.rule_verdicts import verdicts
from rasterloom.filtering.selection import check_keep, columns_needed, select, select_batches
from rasterloom.recipe.filtering import Dedup, Keep

GREY = bytes([128] * 192)
QUALITY = pa.schema([("quality", pa.float64()), ("language", pa.string())])
NO_DEDUP = Dedup(exact=False, phash_radius=None)


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


def reasons(table: pa.Table, rule: str, dedup: Dedup = NO_DEDUP, **columns: list[float | None]) -> list[str]:
    result = select(table, scores(table, **columns), Keep(rule=rule, dedup=dedup))
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
    found = select(table, turned, Keep(rule="quality = 0.3", dedup=NO_DEDUP))
    assert found["kept"].to_pylist() == [False, False, True]


def test_no_rows() -> None:
    assert reasons(images(), "quality > 1", quality=[]) == []
    assert reasons(images(), "true", Dedup()) == []


def test_duplicates_are_sought_among_what_the_rule_kept() -> None:
    table = images(
        {"sha256": "a", "original_width": 900, "caption": "no"},  # the largest, but the rule drops it
        {"sha256": "a", "original_width": 300},
        {"sha256": "a", "original_width": 200},
        {"phash": "0" * 16, "original_width": 300},
        {"phash": "0" * 15 + "f", "original_width": 400},
        {"status": "failed", "error": "timeout"},
    )
    result = select(table, scores(table), Keep(rule="caption <> 'no'"))
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
    dedup = Dedup(prefer="quality")
    found = reasons(table, "true", dedup, quality=[0.2, 0.9, None])
    assert found == ["exact duplicate", "kept", "exact duplicate"]


def test_a_dedup_of_neither_kind_keeps_duplicates() -> None:
    table = images({"sha256": "a", "phash": "0" * 16}, {"sha256": "a", "phash": "0" * 16})
    assert reasons(table, "true") == ["kept", "kept"]
    exact_only = Dedup(exact=True, phash_radius=None)
    assert reasons(table, "true", exact_only) == ["kept", "exact duplicate"]
    near_only = Dedup(exact=False)
    assert reasons(table, "true", near_only) == ["kept", "exact duplicate"]  # the same bytes all the same


def test_unusable_rules_and_preferences_are_refused() -> None:
    with pytest.raises(ValueError, match="names 'nsfw', which is no column"):
        check_keep(Keep(rule="nsfw < 1"), QUALITY)
    with pytest.raises(ValueError, match=r"dedup\.prefer names 'beauty', which is no score; known: quality"):
        check_keep(Keep(dedup=Dedup(prefer="beauty")), QUALITY)
    with pytest.raises(ValueError, match=r"prefer names 'language', which is no score; known: quality$"):
        check_keep(Keep(dedup=Dedup(prefer="language")), QUALITY)
    with pytest.raises(ValueError, match=r"dedup\.semantic compares embeddings, and no score keeps them"):
        check_keep(Keep(dedup=Dedup(semantic=0.9)), QUALITY)
    with pytest.raises(ValueError, match="names 'nsfw'"):
        reasons(images({}), "nsfw < 1")
    check_keep(Keep(rule="quality > 1", dedup=Dedup(prefer="quality")), QUALITY)


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
    result = select(table, scores(table, niqe=list(numbers)), Keep(rule="niqe % 3 = 0", dedup=NO_DEDUP))
    assert result["key"].equals(table["key"])
    np.testing.assert_array_equal(result["kept"].to_numpy(), numbers % 3 == 0)


def test_a_rule_may_speak_of_text_and_truth() -> None:
    table = images({}, {}, {})
    given = table.select(["key", "shard"])
    given = given.append_column("language", pa.array(["en", "de", None]))
    given = given.append_column("caption_url", pa.array([False, True, None]))
    found = select(table, given, Keep(rule="language = 'en' and not caption_url", dedup=NO_DEDUP))
    no = "rule: language = 'en'"
    assert found["reason"].to_pylist() == ["kept", no, no]


def test_what_was_kept_before_is_kept_though_a_larger_one_comes() -> None:
    first = images({"sha256": "a"}, {"phash": "f" * 16})
    larger = images(
        {}, {}, {"sha256": "a", "original_width": 900}, {"phash": "f" * 16, "original_width": 900}
    )
    table = pa.concat_tables([first, larger.slice(2)])
    keep = Keep()
    before = select(first, scores(first), keep)
    earlier = before["key"].filter(before["kept"]).combine_chunks()
    assert earlier.to_pylist() == ["k0", "k1"]
    anew = select(table, scores(table), keep)["kept"].to_pylist()
    remembering = select(table, scores(table), keep, earlier)
    assert anew == [False, False, True, True]
    assert remembering["kept"].to_pylist() == [True, True, False, False]
    assert remembering["duplicate_of"].to_pylist() == [None, None, "k0", "k1"]
    gone = select(table.slice(1), scores(table).slice(1), keep, earlier)["kept"].to_pylist()
    assert gone == [True, True, False]


def with_embeddings(table: pa.Table, *angles: float | None) -> pa.Table:
    rows = [None if a is None else [float(np.cos(a)), float(np.sin(a))] for a in angles]
    return table.append_column("clip_embedding", pa.array(rows, pa.list_(pa.float32())))


def test_semantic_duplicates() -> None:
    table = images({"original_width": 50}, {}, {}, {}, {"caption": "no"})
    given = with_embeddings(scores(table), None, 0.0, 0.05, 1.0, 0.0)
    keep = Keep(rule="caption <> 'no'", dedup=Dedup(semantic=0.99))
    found = select(table, given, keep)
    assert found["reason"].to_pylist() == [
        "kept",
        "kept",
        "semantic duplicate",
        "kept",
        "rule: caption <> 'no'",
    ]
    assert found["duplicate_of"].to_pylist() == [None, None, "k1", None, None]
    nothing = select(table, with_embeddings(scores(table), *[None] * 5), keep)
    assert nothing["kept"].to_pylist() == [True] * 4 + [False]


@pytest.mark.parametrize("table_rows", [1, 3, 100])
@pytest.mark.parametrize("cuts", [[], [1], [2, 4], [1, 2, 3, 4, 5]])
def test_batches_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, cuts: list[int], table_rows: int
) -> None:
    table = images(
        {"status": "failed", "error": "dns"},
        {"sha256": "a"},
        {"sha256": "a", "width": 10},
        {"sha256": "a", "original_width": 300},
        {"phash": "0" * 16},
        {"phash": "0" * 15 + "1", "caption": "a cat"},
        {"status": "failed", "error": None},
    )
    given = with_embeddings(
        scores(table, quality=[None, 1, 2, 3, 4, 5, None]), None, None, 0.0, 0.5, 1.0, 2.0, None
    )
    keep = Keep(rule="min_side > 20 and caption_length < 9", dedup=Dedup(semantic=0.99, prefer="quality"))
    columns = pa.schema(list(given.schema)[2:])
    of_images, of_scores = columns_needed(keep, columns)
    assert "url" not in of_images and "caption" in of_images
    assert of_scores == ["key", "quality", "clip_embedding"]
    ends = [0, *cuts, len(table)]
    batches = [
        (
            table.select(of_images).slice(a, b - a),
            given.select(of_scores).slice(a, b - a).take(list(range(b - a))[::-1]),
        )
        for a, b in pairwise(ends)
    ]
    whole = select(table, given, keep)
    monkeypatch.setattr(selection, "TABLE_ROWS", table_rows)
    tables = list(select_batches(batches, columns, keep))
    assert pa.concat_tables(tables).combine_chunks().equals(whole.combine_chunks())
    assert all(len(table) <= table_rows for table in tables)
    assert whole["reason"].to_pylist() == [
        *("failed: dns", "exact duplicate", "rule: min_side > 20", "kept", "near duplicate", "kept"),
        "failed: unknown",
    ]


def test_a_selection_reads_no_more_than_it_needs() -> None:
    fields = pa.schema([("quality", pa.float64()), ("niqe", pa.float64()), ("language", pa.string())])
    of_images, of_scores = columns_needed(Keep(rule="quality > 1 and URL is not null and aspect < 3"), fields)
    assert of_scores == ["key", "quality"]
    assert "url" in of_images and not {"caption", "image", "detail", "final_url"} & set(of_images)


def test_text_alone_is_not_asked_about_images() -> None:
    nothing = dict.fromkeys(
        ("sha256", "phash", "thumbnail", "width", "height", "original_width", "original_height")
    )
    text = nothing | {"task": "text"}
    table = images(
        {"width": 50},
        text,
        text | {"caption": "xxxxxxxxxxxx"},
        text | {"caption": "a dog"},
        nothing | {"status": "failed"},
    )
    rule = "min_side >= 64 and quality > 0.5 and caption_length < 10"
    assert reasons(table, rule, Dedup(exact=True, phash_radius=4), quality=[1.0, *[None] * 4]) == [
        "rule: min_side >= 64",
        "kept",
        "rule: caption_length < 10",
        "kept",
        "failed: unknown",
    ]
    assert reasons(table, "task <> 'text'")[1] == "rule: task <> 'text'"  # one may still ask them to go
    for row, passed in ((0, False), (1, True)):
        one = table.slice(row, 1)
        judged = verdicts("quality > 0.5", one, scores(one, quality=[None]))
        assert [(verdict.says, verdict.passes) for verdict in judged] == [(None, passed)]


def test_doubles_are_sought_among_plain_pairs_only() -> None:
    same = {"sha256": "f" * 64, "phash": "0" * 16}
    table = images(
        same,
        same | {"task": "t2i"},
        same | {"task": "edit", "main": 1},
        same | {"task": "edit", "main": 1},
        same | {"task": "vqa"},
        same | {"task": "vqa"},
        same | {"task": "t2i", "main": 0},
    )
    found = select(table, scores(table), Keep(rule="true", dedup=Dedup(exact=True, phash_radius=4)))
    assert found["kept"].to_pylist() == [True, False, True, True, True, True, True]
    assert found["duplicate_of"].to_pylist() == [None, "k0", None, None, None, None, None]
