"""Reports on the list readers of other projects, tried on ours (docs/compatibility.md names them)."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.pairs import check_sources, read_sources

Read = Callable[..., list[tuple[str | None, str | None]]]
MANY = "".join(f"http://a/{i},plain\n" for i in range(30_000))


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def run(name: str, data: str | bytes, **fields: str) -> list[tuple[str | None, str | None]]:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        source = Source(path=str(path), **fields)
        check_sources([source])
        table, _ = read_sources([source])
        return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))

    return run


def test_commas_and_spaces_in_lists_of_urls(read: Read) -> None:
    """img2dataset 208, 318, 342, 431: a list of URLs is no CSV."""
    urls = [
        "https://h/w_303,h_170,al_c/a.jpg",
        "https://h/a.jpg?crop=1,2,x0,y0&amp;w=80",
        "https://h/Big sage, a.jpg",
    ]
    assert read("a.txt", "".join(url + "\n" for url in urls)) == [(url, None) for url in urls]


def test_the_first_quote_far_down(read: Read) -> None:
    """DuckDB 11838, 11876: quotes that a sample does not show are quotes all the same."""
    assert read("a.csv", f'url,caption\n{MANY}http://b/1,"x, y"\n')[-1] == ("http://b/1", "x, y")
    tabs = "url\tcaption\n" + MANY.replace(",", "\t")
    with pytest.raises(SourceError, match="its values read as if quoted"):
        read("a.tsv", tabs + 'http://b/1\t"says ""hi"""\n')


def test_rows_wider_than_the_header(read: Read) -> None:
    """DuckDB 25827: the rows before a change of width, and the header, are not thrown away."""
    narrow = "".join(f"http://a/{i},one\n" for i in range(100))
    wide = "".join(f"http://b/{i},two,more\n" for i in range(300))
    rows = read("a.csv", "url,caption\n" + narrow + wide)
    assert len(rows) == 400 and sum(url is not None for url, _ in rows) == 100
    with pytest.raises(SourceError, match="none of the first 1 rows can be read"):
        read("b.csv", "url,caption\nhttp://b/1,two,more\n")


def test_line_ends_make_no_difference(read: Read) -> None:
    """DuckDB 18577, 13859: the same rows with either end of lines, and with both."""
    lines = ["url,caption", 'http://a/1,"two\nlines"', "http://a/2,x", "", "http://a/3,y"]
    expected = [("http://a/1", "two\nlines"), ("http://a/2", "x"), ("http://a/3", "y")]
    for end in ("\n", "\r\n", "\r"):
        assert read("a.csv", end.join(lines)) == expected
    assert read("a.csv", "\r\n".join(lines[:3]) + "\n" + "\n".join(lines[3:])) == expected


def test_line_ends_in_the_header(read: Read) -> None:
    """DuckDB 16760: a name of a column may have lines."""
    assert read("a.csv", 'url,caption,"two\nlines"\nhttp://a/1,one,1\n') == [("http://a/1", "one")]


def test_quotes_in_tabs_lose_no_lines(read: Read) -> None:
    """pandas 25228: as many rows as lines, whatever quotes are in them."""
    lines = [f"http://a/{i}\t{'a 27 inch' if i % 7 else chr(34) + 'The Wave'} {i}" for i in range(2000)]
    rows = read("a.tsv", "url\tcaption\n" + "\n".join(lines))
    assert len(rows) == 2000 and rows[7] == ("http://a/7", '"The Wave 7')


def test_nul_bytes_end_nothing(read: Read) -> None:
    """pandas 2741, 14012, 19886: a NUL byte is a character of its value."""
    assert read("a.csv", "url,caption\nhttp://a/1,one\0two\nhttp://a/2,\0\nhttp://a/3,x\n") == [
        ("http://a/1", "one\0two"),
        ("http://a/2", "\0"),
        ("http://a/3", "x"),
    ]


def test_compressed_json_gives_all_its_lines(read: Read) -> None:
    """datasets 5088, smart_open 269: no line is lost in `.json.gz`, nor split at ends of lines of Unicode."""
    lines = [
        json.dumps({"url": f"http://a/{i}", "caption": "a\u2028b\x85c"}, ensure_ascii=False) for i in range(9)
    ]
    data = gzip.compress("\n".join(lines[:4]).encode()) + gzip.compress(
        ("\n" + "\n".join(lines[4:])).encode()
    )
    assert read("a.json.gz", data) == [(f"http://a/{i}", "a\u2028b\x85c") for i in range(9)]


def test_an_upload_that_was_cut_short(read: Read) -> None:
    """datatrove 78: what is missing is said, compressed or not."""
    text = "".join(json.dumps({"url": f"http://a/{i}", "caption": "one"}) + "\n" for i in range(5000))
    assert read("a.jsonl", text[:-10])[-2:] == [("http://a/4998", "one"), (None, None)]
    with pytest.raises(SourceError, match="its gzip data is cut short"):
        read("a.jsonl.gz", gzip.compress(text.encode())[:-20])


def test_empty_lines_between_records(read: Read) -> None:
    """graphrag 2424: an empty line loses neither itself nor the file."""
    record = '{"url": "http://a/1", "caption": "one"}'
    assert read("a.jsonl", f"{record}\n\n \t\n\r\n{record.replace('1', '2')}\n") == [
        ("http://a/1", "one"),
        ("http://a/2", "one"),
    ]


@pytest.mark.parametrize("indent", [None, 4])
def test_records_longer_than_a_block(read: Read, indent: int | None) -> None:
    """arrow 7835, 40912, datasets 629, 2181: long and indented records are records."""
    records = [{"url": f"http://a/{i}", "caption": "x" * 1_500_000, "more": {"a": ["b"]}} for i in range(3)]
    expected = [(f"http://a/{i}", "x" * 1_500_000) for i in range(3)]
    assert read("a.json", json.dumps(records, indent=indent)) == expected
    assert read("b.json", "\n".join(json.dumps(record, indent=indent) for record in records)) == expected
