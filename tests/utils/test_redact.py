import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.utils.redact import LINES, as_json, cut, masked, safe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://me:pw@host:80/x.jpg", "http://…@host:80/x.jpg"),
        ("http://me:pw/with/slash@host/x", "http://…@host/x"),
        ("http://me:p@w/d@host/x", "http://…@host/x"),
        ("http://me:123/4@host/", "http://…@host/"),
        ("https://token@host/a@b", "https://…@host/a@b"),
        ("'http://me:pw@h' and a@b.org", "'http://…@h' and a@b.org"),
        ("https://a:pw@h/ https://b:q/w@h/", "https://…@h/ https://…@h/"),
        ("postgresql+psycopg://me:pw@127.0.0.1:9/db", "postgresql+psycopg://…@127.0.0.1:9/db"),
        ("https://h/?X-Amz-Signature=a&w=3&token=b#c", "https://h/?X-Amz-Signature=…&w=3&token=…"),
        ("https://h/?Policy=a&Key-Pair-Id=b&sig=c", "https://h/?Policy=…&Key-Pair-Id=…&sig=…"),
        ("p?url=https%3A%2F%2Fme%3Apw%40host%2F", "p?url=https%3A%2F%2F…%40host%2F"),
    ],
)
def test_secrets_of_urls(text, said):
    assert masked(text) == said
    assert masked(said) == said


@pytest.mark.parametrize(
    "text",
    [
        "https://medium.example/@user/post",
        "http://host.example:8080/@user",
        "http://localhost:8265/a@b",
        "http://[::1]:80/@x",
        "s3://bucket/corpus@branch/x.parquet",
        "https://h/?author=bob&keywords=a&width=3",
        "demo@v1: pairs 4711",
    ],
)
def test_what_is_no_secret_stays(text):
    assert safe(text) == text


def test_what_is_spelt_out():
    assert safe("\x1b[2J\x9b\x7f\u202e\u200b\u2028\ud800\U000e0041\n\t") == (
        r"\x1b[2J\x9b\x7f\u202e\u200b\u2028\ud800\U000e0041\n\t"
    )
    assert safe("a\nb\tc", LINES) == "a\nb\\tc"
    assert safe("日本\u3000é [v2]") == "日本\u3000é [v2]"


@given(st.text(), st.integers(2, 50))
def test_a_cut_line_is_short_and_printable(text, limit):
    line = cut(text, limit)
    assert len(line) <= limit and "\n" not in line
    assert not set(line) & {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2028"}


@given(st.recursive(st.text(st.characters()), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_json_says_the_same(value):
    printed = as_json(value)
    assert printed.isascii() or not set(printed) & {*map(chr, range(0x7F, 0xA0)), "\u202e", "\u2028"}
    if not any(sign in json.dumps(value) for sign in "@=%"):
        assert json.loads(printed) == value


@pytest.mark.parametrize("part", ["//a:b", "//a:b@", "//a/@", "?token", "%3A%2F%2Fa", "@", "\x1b"])
def test_long_texts_of_parts_of_secrets_end(part):
    safe(part * 50_000 + "=%40@")
