"""Rows out of Parquet, CSV and JSON Lines, and one line that says why a source cannot be used."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.readers import registry
from rasterloom.sources.readers.base import Listing
from rasterloom.sources.readers.registry import PluginReader, read_rows, source_name, survey_source
from rasterloom.sources.readers.row import UNREADABLE, Row
from rasterloom.sources.readers.tally import Survey
from rasterloom.utils import plugins
from rasterloom.utils.plugins import Plugin

Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return run


def rows(path: Path, **source: str) -> list[dict[str, object]]:
    return [row.values for row in read_rows(Source(path=str(path), **source))]


def test_csv_with_quotes_newlines_and_a_byte_order_mark(write: Write) -> None:
    path = write(
        "a.csv", b'\xef\xbb\xbfurl,caption,n\r\nhttp://a/1,"two\nlines, ""quoted""",7\r\n\r\nhttp://a/2,,\r\n'
    )
    assert rows(path) == [
        {"url": "http://a/1", "caption": 'two\nlines, "quoted"', "n": "7"},
        {"url": "http://a/2", "caption": "", "n": ""},
    ]


def test_csv_rows_that_do_not_fit_are_kept_as_unreadable(write: Write) -> None:
    path = write(
        "a.csv",
        b'url,caption\nhttp://a/1,one\nhttp://a/2,two,three\nhttp://a/3\n"http://a/4"x,four\n\xd9\nhttp://a/5,five\n',
    )
    read = rows(path)
    assert [row["url"] for row in read if "url" in row] == ["http://a/1", "http://a/5"]
    assert [row[UNREADABLE] for row in read if UNREADABLE in row] == [
        "http://a/2,two,three",
        "http://a/3",
        '"http://a/4"x,four',
        "\udcd9",
    ]


@pytest.mark.parametrize("rest", [b"", b"http://a/3,three\n" * 20_000])
def test_csv_quote_without_an_end_swallows_nothing_in_silence(write: Write, rest: bytes) -> None:
    path = write("a.csv", b'url,caption\nhttp://a/1,one\nhttp://a/2,"two\n' + rest)
    with pytest.raises(SourceError, match=r"a\.csv: a quote in the row of line 3 does not end"):
        rows(path)


def test_csv_bytes_that_are_no_utf8_harm_nothing_else(write: Write) -> None:
    path = write("a.csv", b"url,caption\nhttp://a/1,caf\xe9\nhttp://a/2,fine\n")
    assert [row["caption"] for row in rows(path)] == ["caf\udce9", "fine"]


def test_tsv(write: Write) -> None:
    assert rows(write("a.tsv", b"url\tcaption\nhttp://a/1\ta, b\n"))[0]["caption"] == "a, b"


def test_jsonl_lines_that_are_no_rows(write: Write) -> None:
    path = write("a.jsonl", b'{"url": "u", "caption": "c", "n": 1}\n\nnot json\n[1]\n{"url": 3}\n"text"')
    assert rows(path) == [
        {"url": "u", "caption": "c", "n": 1},
        {UNREADABLE: "not json"},
        {UNREADABLE: "[1]"},
        {"url": 3},
        {UNREADABLE: '"text"'},
    ]


def test_jsonl_nested_beyond_reason(write: Write) -> None:
    path = write("a.jsonl", b"[" * 100_000 + b'\n{"url": "u", "caption": "c"}\n')
    assert [UNREADABLE in row for row in rows(path)] == [True, False]


def test_parquet_of_several_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(["u1", None]).dictionary_encode(),
            "caption": pa.array(["c1", "c2"], pa.large_string()),
            "size": [[1, 2], None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [
        {"url": b"u1", "caption": b"c1", "size": [1, 2]},
        {"url": None, "caption": b"c2", "size": None},
    ]


def test_a_cell_that_python_cannot_hold_harms_itself_alone(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": ["u1", "u2"],
            "caption": ["c1", "c2"],
            "when": pa.array([2**61, 0], pa.timestamp("ms")),
            "tags": pa.ListArray.from_arrays(
                [0, 1, 2], pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
            ),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = rows(tmp_path / "a.parquet")
    assert (first["url"], first["when"], first["tags"]) == (
        b"u1", "unreadable timestamp[ms]", "unreadable list<element: string>"
    )  # fmt: skip
    assert second["tags"] == ["fine"] and str(second["when"]).startswith("1970")


def broken_parquet(tmp_path: Path) -> bytes:
    pq.write_table(pa.table({"url": ["u"] * 1000, "caption": ["c"] * 1000}), tmp_path / "x.parquet")
    return (tmp_path / "x.parquet").read_bytes()[:-20]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"link,text,licence\nu,c,l\n"),
        ("a.tsv", b"link\ttext\tlicence\nu\tc\tl\n"),
        ("a.jsonl", b'{"link": "u", "text": "c"}\n{"licence": "l"}\n'),
    ],
)
@pytest.mark.parametrize("column", ["url", "caption"])
def test_wrong_column_names_the_columns_there_are(write: Write, name: str, data: bytes, column: str) -> None:
    path = write(name, data)
    names = {"url": "link", "caption": "text", column: "nope"}
    with pytest.raises(SourceError) as caught:
        rows(path, **names)
    assert str(caught.value) == f"{path}: no column 'nope' for the {column}; it has link, text, licence"


def test_wrong_column_of_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["u"], "text": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: no column 'url' for the url; it has link, text$"):
        rows(tmp_path / "a.parquet", caption="text")


def test_files_that_cannot_be_read(tmp_path: Path, write: Write) -> None:
    cases = {
        tmp_path / "missing.parquet": "no such file",
        tmp_path / "missing.csv": "no such file",
        tmp_path / "missing.jsonl": "no such file",
        write("pairs.xlsx", b""): "unknown kind of file '.xlsx'; known: .parquet, .arrow",
        write("pairs", b""): "unknown kind of file ''",
        write("text.parquet", b"no parquet"): "cannot be read",
        write("cut.parquet", broken_parquet(tmp_path)): "cannot be read",
        write("header.csv", b"url,\xff\n"): "no column 'caption'",
    }
    (tmp_path / "folder.csv").mkdir()
    cases[tmp_path / "folder.csv"] = "no files there"
    cases[tmp_path / "*.ndjson"] = "no files there"
    for path, words in cases.items():
        with pytest.raises(SourceError) as caught:
            rows(path)
        assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_source_names(tmp_path: Path) -> None:
    assert source_name(Source(path=str(tmp_path))) == tmp_path.name
    assert source_name(Source(path=f"{tmp_path}/*.tar")) == tmp_path.name
    assert source_name(Source(path=("/data/one.csv", "/data/two.csv"))) == "one"
    assert source_name(Source(path="hf://owner/set")) == "set"
    assert source_name(Source(path="/data/laion.parquet")) == "laion"
    assert source_name(Source(path="/data/laion.parquet", name="mine")) == "mine"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), st.booleans(), st.binary(max_size=200))
def test_any_file_gives_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, has_header: bool, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    header = {".csv": b"url,caption\n", ".tsv": b"url\tcaption\n", ".jsonl": b'{"url": "", "caption": ""}\n'}
    path.write_bytes(header.get(suffix, b"PAR1") * has_header + data)
    try:
        assert all(isinstance(row, dict) for row in rows(path))
    except SourceError as error:
        assert "\n" not in str(error)


class Notes:
    """Reader of a plug-in, of whatever lies there."""

    def matches(self, listing: Listing) -> bool:
        return False

    def check(self, source: Source) -> None: ...

    def read(self, source: Source) -> Iterator[Row]:
        yield Row({"url": "http://a/1", "caption": "one"})

    def digest(self, source: Source) -> str:
        return "1"


class SurveyedNotes(Notes):
    def survey(self, source: Source) -> object:
        if source.caption == "broken":
            return "two files"
        return Survey("notes", Counter({".note": 1}), {"not a note": Counter({".md": 1})})


def test_a_plug_in_may_tell_which_files_it_reads(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(path=str(write("a.note", b"one"))).model_copy(update={"kind": "notes"})
    entry = EntryPoint("notes", "my_notes:Notes", plugins.READERS)
    plugin = Plugin(plugins.READERS, entry.name, entry.value, "my-notes", "1.0", entry)
    for reader, lines in (
        (Notes(), None),
        (SurveyedNotes(), ["1 .note read", "1 .md not read (not a note)"]),
    ):
        plugged = PluginReader(plugin, reader)
        monkeypatch.setattr(registry, "reader_of_kind", lambda _, plugged=plugged: plugged)
        survey = survey_source(source)
        assert (survey.lines() if survey else None) == lines
    with pytest.raises(SourceError, match="survey gave str where a Survey is due"):
        survey_source(source.model_copy(update={"caption": "broken"}))
