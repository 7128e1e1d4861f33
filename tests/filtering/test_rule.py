import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.filtering.rule import check_rule, conjuncts_of, connect

COLUMNS = pa.schema(
    [
        ("quality", pa.float64()),
        ("niqe", pa.float64()),
        ("language", pa.string()),
        ("caption_url", pa.bool_()),
        ("clip_embedding", pa.list_(pa.float32())),
    ]
)


@pytest.mark.parametrize(
    "rule",
    [
        "true",
        "null",
        "quality >= 0.3 and min_side >= 64",
        "aspect between 0.5 and 2 or caption_length > 3",
        "caption not like '%;select%' and url is not null",
        "QUALITY > 0.3 and original_format in ('JPEG', 'PNG')",
        "case when width > 100 then niqe < 5 else false end -- a comment",
        "hash(key) % 100 < 5",
        "regexp_matches(lower(caption), 'cat|dog')",
        "language = 'en' and not caption_url",
    ],
)
def test_expressions_of_a_row_pass(rule: str) -> None:
    check_rule(rule, COLUMNS)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "qualty > 1",
            "names 'qualty', which is no column; did you mean quality[?] "
            "known: quality, niqe, language, caption_url, min_side",
        ),
        ("aesthetic >= 5", "names 'aesthetic', which is no column; .*known: quality, niqe"),
        ("clip_embedding[1] > 0", "names 'clip_embedding', which is no column; .*known: quality"),
        ("language", "gives VARCHAR, not true or false"),
        ("image is null", "names 'image', which is no column"),
        ("images.width > 3", "names 'images.width'"),
        ("quality > > 1", "syntax error at character 11, '> 1'"),
        ("quality > 1 and", "syntax error at character 13, 'and'"),
        ("caption = 'ééé' and and", "syntax error at character 21, 'and'"),
        ("true) from t where (true", "syntax error at character 5, '[)] from t where [(]tr"),
        ("", "must be one SQL expression"),
        ("-- nothing", "must be one SQL expression"),
        ("true; drop table t", "must be one SQL expression"),
        ("true; select true", "must be one SQL expression"),
        ("true from t", "must be one SQL expression"),
        ("true limit 1", "must be one SQL expression"),
        ("quality > 1, niqe > 1", "must be one SQL expression"),
        ("quality > 0 union select true", "must be one SQL expression"),
        ("quality > 0 -- \n except select true", "must be one SQL expression"),
        ("quality > 0 intersect all select true", "must be one SQL expression"),
        ("true union by name select true", "must be one SQL expression"),
        ("caption = '\ud800'", "cannot be used: .*surrogate"),
        ("not " * 200 + "true", "nests too deeply"),
        ("1 + " * 900 + "1 > 0", "nests too deeply"),
        ("not " * 9000 + "true", "must be one SQL expression"),
        ("quality > 1 as good", "must be one SQL expression"),
        ("quality", "gives DOUBLE, not true or false"),
        ("caption", "gives VARCHAR, not true or false"),
        ("key in (select 'x')", "cannot hold a subquery"),
        ("exists(from read_csv('/etc/passwd'))", "cannot hold a subquery"),
        ("row_number() over () < 10", "cannot hold a window function"),
        ("sum(quality) > 1", "cannot contain aggregates"),
        ("? > 1", "cannot hold a parameter"),
        ("columns('q.*') > 1", "cannot hold a star"),
        ("random() < 0.5", "cannot hold random"),
        ("now() > '2020-01-01'", "cannot hold now"),
        ("getenv('HOME') = ''", "cannot be used: .*getenv"),
        ("width > 'wide'", "cannot be used: .*'wide'"),
        ("caption > 3 + 'x'", "cannot be used"),
    ],
)
def test_anything_else_is_refused_in_one_line(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_rule(rule, COLUMNS)
    assert "\n" not in str(error.value)


FRAGMENTS = """
    quality niqe caption width true null 1 0.5 'a' > = and or not ( ) [ ] , ; :: . * ? $1 -- /* */ " '
    select from where union except intersect all by name order group having limit offset with as values
    in between is like case when then else end over filter distinct into using sample qualify window
    cast try_cast interval date lambda x : -> abs( sum( unnest( columns( exists( array[ {'a': } integer json
    pivot table insert delete copy set pragma"""


@settings(max_examples=80)
@given(st.lists(st.sampled_from(FRAGMENTS.split()), min_size=1, max_size=8))
def test_fragments_of_sql_are_a_rule_or_refused_in_one_line(fragments: list[str]) -> None:
    rule = " ".join(fragments)
    try:
        check_rule(rule, COLUMNS)
        with connect() as connection:
            conjuncts_of(connection, rule)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("quality > 1", ["quality > 1"]),
        ("a > 1 AND b < 2 and c", ["a > 1", "b < 2", "c"]),
        ("a between 1 and 2 and b", ["a between 1 and 2", "b"]),
        ("a not between 1 and 2 and b between 3 and 4", ["a not between 1 and 2", "b between 3 and 4"]),
        ("(a and b) and (c or d and e)", ["(a and b)", "(c or d and e)"]),
        ("a or b and c", ["a or b and c"]),
        ("a and b or c and d", ["a and b or c and d"]),
        ("not a and b", ["not a", "b"]),
        ("case when a and b then c end and d", ["case when a and b then c end", "d"]),
        ("a = 'x and y' and b = 'é' and c", ["a = 'x and y'", "b = 'é'", "c"]),
        ('"and" and [a and b][1] and f(a and b)', ['"and"', "[a and b][1]", "f(a and b)"]),
        ("a -- and b\n and c", ["a -- and b", "c"]),
        ("a /* and */ and b", ["a /* and */", "b"]),
    ],
)
def test_a_rule_is_cut_at_its_top_level_ands(rule: str, parts: list[str]) -> None:
    with connect() as connection:
        assert conjuncts_of(connection, rule) == parts


def test_duckdb_reaches_no_files(tmp_path: object) -> None:
    with connect() as connection:
        for statement in (f"from read_csv('{tmp_path}/x.csv')", f"copy (select 1) to '{tmp_path}/x.csv'"):
            with pytest.raises(Exception, match=r"[Pp]ermission"):
                connection.execute(statement)
        with pytest.raises(Exception, match="configuration has been locked"):
            connection.execute("set enable_external_access = true")
