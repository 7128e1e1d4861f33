"""Lists in the forms that people have: compressed, recoded, nested, without a header, without captions."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.files import digest_of, find_files
from rasterloom.sources.lists.opened import open_list
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers.registry import kind_of, read_rows, source_digest, survey_source
from rasterloom.sources.readers.row import UNREADABLE
from rasterloom.sources.readers.tally import Tally

PAIRS = [("http://a/1", "one"), ("http://a/2", "zwei, größer"), ("http://a/3", 'says "hi"')]
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
QUOTED = "".join('{},"{}"\n'.format(url, text.replace('"', '""')) for url, text in PAIRS)
CSV = "url,caption\n" + QUOTED
TSV = "url\tcaption\n" + "".join(f"{url}\t{text}\n" for url, text in PAIRS)
RECORDS = [{"url": url, "caption": text} for url, text in PAIRS]
JSONL = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)
TEXTS = {
    "a.csv": CSV,
    "a.tsv": TSV,
    "a.jsonl": JSONL,
    "a.ndjson": JSONL,
    "a.json": json.dumps(RECORDS, ensure_ascii=False, indent=1),
}


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def pairs_of(path: Path, **fields: Any) -> list[tuple[Any, Any]]:
    """The pairs of a source that has been checked, and whose records are all accounted for."""
    source = Source(path=str(path), **fields)
    check_sources([source])
    tally = Tally()
    rows = list(read_rows(source, tally))
    assert tally.faults() == [] and sum(count.rows for count in tally.files.values()) == len(rows)
    table, _ = read_sources([source])
    return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))


def refusal(path: Path, **fields: Any) -> str:
    """The one line that a source is refused with, before anything runs or while it is read."""
    source = Source(path=str(path), **fields)
    with pytest.raises(SourceError) as caught:
        check_sources([source])
        list(read_rows(source))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path.parent))
    return message


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("suffix", ["", *PACK])
def test_every_text_is_read_compressed_too(tmp_path: Path, name: str, suffix: str) -> None:
    data = TEXTS[name].encode()
    path = write(tmp_path / (name + suffix.upper()), PACK[suffix](data) if suffix else data)
    assert pairs_of(path) == PAIRS
    assert pairs_of(tmp_path) == PAIRS  # a folder of them


@pytest.mark.parametrize("suffix", PACK)
def test_all_members_of_a_compressed_file_are_read(tmp_path: Path, suffix: str) -> None:
    pack = PACK[suffix]
    data = b"".join(map(pack, (b"url,caption\n", b"", QUOTED[:7].encode(), QUOTED[7:].encode())))
    assert pairs_of(write(tmp_path / f"a.csv{suffix}", data)) == PAIRS
    if suffix != ".zst":  # zeros that fill a block of a tape
        assert pairs_of(write(tmp_path / f"a.csv{suffix}", data + bytes(4096))) == PAIRS


@pytest.mark.parametrize("suffix", PACK)
def test_broken_compressed_data_ends_in_one_line(tmp_path: Path, suffix: str) -> None:
    data = PACK[suffix]((CSV * 500).encode())
    path = tmp_path / f"a.csv{suffix}"
    assert "cannot be read: " in refusal(write(path, data + b"<html>not found</html>"))
    assert "cannot be read: " in refusal(write(path, data[:-9]))
    assert "cannot be read: " in refusal(write(path, PACK[suffix](CSV.encode()) + data[: len(data) // 2]))
    middle = len(data) // 2
    if suffix == ".zst":  # which has no checksum, unless its writer asks for it
        data = zstandard.ZstdCompressor(write_checksum=True).compress((CSV * 500).encode())
        middle = len(data) // 2
    harmed = data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 8]) + data[middle + 8 :]
    assert "cannot be read: " in refusal(write(path, harmed))
    assert "data, as its name says: rename the file" in refusal(write(path, CSV))


def test_compressed_data_is_known_by_itself(tmp_path: Path) -> None:
    assert pairs_of(write(tmp_path / "a.csv", gzip.compress(CSV.encode()))) == PAIRS


def test_what_decompresses_to_much_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path / "a.csv.bz2", bz2.compress(b"x" * 30_000_000))
    file = open_list(find_files(Source(path=str(path))), "a.csv.bz2")
    tracemalloc.start()
    try:
        assert sum(map(len, iter(lambda: file.read(1 << 16), b""))) == 30_000_000
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        file.close()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_is_understood(tmp_path: Path, name: str, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = write(tmp_path / name, (mark + TEXTS[name]).encode(encoding))
    assert pairs_of(path) == PAIRS
    packed = write(tmp_path / "packed" / f"{name}.gz", gzip.compress(path.read_bytes()))
    assert pairs_of(packed) == PAIRS


@pytest.mark.parametrize("name", TEXTS)
def test_an_encoding_can_be_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TEXTS[name].encode("latin-1"))
    assert pairs_of(path, encoding="latin-1") == PAIRS
    assert pairs_of(path)[1] == ("http://a/2", None)  # its bytes are no UTF-8: counted, and in `meta`


def test_an_encoding_that_nothing_names_ends_in_one_line(tmp_path: Path) -> None:
    header = CSV.replace("caption", "légende").encode("latin-1")
    assert "that is no UTF-8: give the source its `encoding`, such as latin-1" in refusal(
        write(tmp_path / "a.csv", header), caption="légende"
    )
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "b.csv", CSV.encode(encoding))
        assert f"give the source `encoding: {encoding}`" in refusal(path)
        assert pairs_of(path, encoding=encoding) == PAIRS
    for name, text in (("c.csv", CSV), ("c.jsonl", JSONL), ("c.json", json.dumps(RECORDS))):
        cut = ("\ufeff" + text).encode("utf-16-le")[:-1]
        assert "truncated data" in refusal(write(tmp_path / name, cut))


@pytest.mark.parametrize("encoding", ["rot13", "zip", "idna", "unicode_escape", "no such", "utf-7"])
def test_what_is_no_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ValidationError, match="unknown encoding"):
        Source(path="a.csv", encoding=encoding)


def test_quotes_in_tab_separated_values_are_text(tmp_path: Path) -> None:
    captions = ['"The Wave, a woodcut', 'a 27" screen', '"Sunset" over the bay', '"whole"', "plain"]
    rows = [(f"http://a/{i}", caption) for i, caption in enumerate(captions)]
    path = write(tmp_path / "a.tsv", "url\tcaption\n" + "".join(f"{u}\t{c}\n" for u, c in rows))
    assert pairs_of(path) == rows


@pytest.mark.parametrize(
    "rows",
    [
        'http://a/1\t"says ""hi"""\nhttp://a/2\tplain\n',  # as pandas writes it
        'http://a/1\t"one"\nhttp://a/2\t"two"\n',  # as R does, but for the header
        'http://a/1\t"two\nlines"\nhttp://a/2\tplain\n',
    ],
)
def test_quoted_tab_separated_values_are_asked_for(tmp_path: Path, rows: str) -> None:
    path = write(tmp_path / "a.tsv", "url\tcaption\n" + rows)
    assert "its values read as if quoted" in refusal(path)
    assert len(pairs_of(path, quote='"')) == 2
    assert all('"' in (caption or '"') for _, caption in pairs_of(path, quote="none")[:1])


def test_a_quoted_header_of_tab_separated_values_names_the_way_out(tmp_path: Path) -> None:
    assert "give the source `quote: '\"'`" in refusal(
        write(tmp_path / "a.tsv", '"url"\t"caption"\n"u"\t"c"\n')
    )


def test_long_fields_are_read(tmp_path: Path) -> None:
    long = "word " * 60_000
    path = write(tmp_path / "a.csv", f"url,caption\nhttp://a/1,{long}\nhttp://a/2,two\n")
    assert pairs_of(path) == [("http://a/1", long), ("http://a/2", "two")]


def test_a_field_without_an_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import csv

    from rasterloom.sources.readers import text

    limit = csv.field_size_limit(200_000)
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 300_000)
    try:
        quoted = write(tmp_path / "a.csv", 'url,caption\nhttp://a/1,"' + "x\n" * 150_000)
        assert "the row of line 2 has a field of over" in refusal(quoted)
        line = write(tmp_path / "b.csv", "url,caption\nhttp://a/1," + "x," * 200_000)
        assert "a line of over 300,000 characters" in refusal(line)
    finally:
        csv.field_size_limit(limit)


def test_columns_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", QUOTED)
    assert "without a header, name the columns by `columns`" in refusal(path)
    assert pairs_of(path, columns=("url", "caption")) == PAIRS
    assert "its first row has 2 values, but `columns` names 3" in refusal(
        path, columns=("url", "caption", "more")
    )
    headed = write(tmp_path / "b.csv", CSV)
    assert "its first row is its header: leave out `columns`" in refusal(headed, columns=("url", "caption"))


def test_other_dialects(tmp_path: Path) -> None:
    semicolons = write(tmp_path / "a.csv", CSV.replace(",", ";"))
    assert 'give the source `delimiter: ";"`' in refusal(semicolons)
    assert pairs_of(semicolons, delimiter=";")[0] == PAIRS[0]
    tabs = write(tmp_path / "b.csv", CSV.replace(",", "\t"))
    assert 'give the source `delimiter: "\\t"`' in refusal(tabs)
    escaped = write(tmp_path / "c.csv", 'url,caption\nhttp://a/1,"says \\"hi\\", leaves"\n')
    assert "none of the first 1 rows can be read" in refusal(escaped)
    assert pairs_of(escaped, escape="\\") == [("http://a/1", 'says "hi", leaves')]
    single = write(tmp_path / "d.csv", "url,caption\nhttp://a/1,'a, b'\n")
    assert pairs_of(single, quote="'") == [("http://a/1", "a, b")]


@pytest.mark.parametrize(
    "field", [{"delimiter": ",,"}, {"quote": ""}, {"escape": "\n"}, {"quote": ",", "delimiter": ","}]
)
def test_a_dialect_that_cannot_be(field: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Source(path="a.csv", **field)


def test_columns_that_are_there_twice(tmp_path: Path) -> None:
    assert "column 'url' for the url is there 2 times" in refusal(
        write(tmp_path / "a.csv", "url,caption,url\nhttp://a/1,one,http://a/2\n")
    )
    path = write(tmp_path / "b.csv", "url,n,caption,n\nhttp://a/1,1,one,2\n")
    assert [row.values for row in read_rows(Source(path=str(path)))] == [
        {"url": "http://a/1", "n": "1", "caption": "one", "n_1": "2"}
    ]
    twice = pa.table([["http://a/1"], ["one"], ["x"], ["y"]], names=["url", "caption", "n", "n"])
    pq.write_table(twice, tmp_path / "c.parquet")
    assert [row.values for row in read_rows(Source(path=str(tmp_path / "c.parquet")))] == [
        {"url": b"http://a/1", "caption": b"one", "n": b"x", "n_1": b"y"}
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", ""),
        ("a.csv", "\n\n"),
        ("a.csv", "url,caption\n"),
        ("a.jsonl", ""),
        ("a.json", "[]"),
        ("a.json", "[\n]\n"),
        ("a.txt", "\n"),
    ],
)
def test_empty_lists_are_refused(tmp_path: Path, name: str, data: str) -> None:
    assert refusal(write(tmp_path / name, data)).endswith(": it holds no rows")


def test_an_empty_part_of_a_list_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path / "part-0.csv", "")
    write(tmp_path / "part-1.csv", CSV)
    assert pairs_of(tmp_path) == PAIRS


@pytest.mark.parametrize(
    "url", ["www.example.com/a.jpg", "//example.com/a.jpg", "images/a.jpg", "example.com:80/a.jpg"]
)
def test_urls_without_a_scheme_are_refused(tmp_path: Path, url: str) -> None:
    path = write(tmp_path / "a.csv", f"url,caption\n{url},one\n{url},two\n")
    assert "have no scheme" in refusal(path)
    mixed = write(tmp_path / "b.csv", f"url,caption\n{url},one\nhttp://a/1,two\n")
    assert len(pairs_of(mixed)) == 2


def test_captions_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "url,caption\nhttp://a/1,\nhttp://a/2, \n")
    assert "none of the first 2 rows has a caption that is text" in refusal(path)
    records = write(tmp_path / "b.jsonl", '{"url": "http://a/1", "caption": ["one", "two"]}\n')
    assert "write caption[0] for the first of them, or caption[*] for a row each" in refusal(records)
    structs = write(tmp_path / "c.jsonl", '{"url": "http://a/1", "caption": {"long": "one"}}\n')
    assert "write caption.long (it has long)" in refusal(structs)
    assert "can be read, such as" in refusal(write(tmp_path / "d.jsonl", "no json\n[1]\n"))


NESTED = [
    {"url": "http://a/1", "captions": ["one", "eins"], "text": {"long": "a long one", "all": [{"en": "x"}]}},
    {"url": "http://a/2", "captions": [], "text": None},
    {"url": "http://a/3", "captions": None, "text": {"long": None, "all": []}},
]


@pytest.fixture(params=["jsonl", "json", "parquet", "arrow"])
def nested(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    elif request.param == "arrow":
        feather.write_feather(pa.Table.from_pylist(NESTED), str(path))
    elif request.param == "json":
        path.write_text(json.dumps(NESTED))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in NESTED))
    return path


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("captions[0]", [("1", "one"), ("2", None), ("3", None)]),
        ("captions[1]", [("1", "eins"), ("2", None), ("3", None)]),
        ("captions[*]", [("1", "one"), ("1", "eins"), ("2", None), ("3", None)]),
        ("text.long", [("1", "a long one"), ("2", None), ("3", None)]),
        ("text.all[0].en", [("1", "x"), ("2", None), ("3", None)]),
    ],
)
def test_fields_within_columns(nested: Path, caption: str, expected: list[tuple[str, Any]]) -> None:
    assert pairs_of(nested, caption=caption) == [(f"http://a/{number}", text) for number, text in expected]


def test_columns_of_other_types_are_refused_by_the_footer(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"url": "u://1", "n": 1, "l": ["x"], "s": {"a": "x", "b": 1}}])
    pq.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, str(tmp_path / "a.feather"))
    for path in (tmp_path / "a.parquet", tmp_path / "a.feather"):
        assert "column 'n' for the caption holds int64, not text" in refusal(path, caption="n")
        assert "not text: write l[0] for the first of them, or l[*] for a row each" in refusal(
            path, caption="l"
        )
        assert "not text: write s.a (it has a, b)" in refusal(path, caption="s")
        assert "column 's.b' for the caption holds int64" in refusal(path, caption="s.b")
        assert "there is no 's.c': 's' holds struct" in refusal(path, caption="s.c")
        assert "there is no 'l.c': 'l' holds list" in refusal(path, caption="l.c")
        assert "no column 'm.c' for the caption; it has url, n, l, s" in refusal(path, caption="m.c")


def test_a_column_whose_name_looks_like_a_field_is_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "url,text.long,captions[0]\nhttp://a/1,one,two\n")
    assert pairs_of(path, caption="text.long") == [("http://a/1", "one")]
    assert pairs_of(path, caption="captions[0]") == [("http://a/1", "two")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(json.dumps(record, indent=2) for record in RECORDS),  # jq's output
        "".join(json.dumps(record) for record in RECORDS),
        " ".join(json.dumps(record) for record in RECORDS),
        "\r".join(json.dumps(record) for record in RECORDS),
        "\r\n\r\n".join(json.dumps(record) for record in RECORDS),
        JSONL.replace("\n", "\n\ufeff", 1),  # files with a mark each, put together
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_in_all_its_forms(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    assert pairs_of(path) == PAIRS
    assert kind_of(Source(path=str(path))) == name.partition(".")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(RECORDS) + "\ngarbage", "its JSON list ends at character"),
        (json.dumps(RECORDS) * 2, "its JSON list ends at character"),
        (json.dumps(RECORDS, indent=1)[:-3], "is no JSON list from character"),
        (json.dumps(RECORDS[0], indent=1) + "\ngarbage", "is no JSON from character"),
        (json.dumps({"data": RECORDS}), "no column 'url' for the url; it has data"),
        (json.dumps({"url": {"0": "http://a/1"}, "caption": {"0": "one"}}), "of the first 1 rows has a URL"),
    ],
)
def test_json_that_does_not_go_on_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(write(tmp_path / "a.json", text))


def test_json_that_is_no_object_is_a_row_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"url": "http://a/1", "caption": "one"}, 7, null, NaN]')
    rows = [row.values for row in read_rows(Source(path=str(path)))]
    assert [row.get(UNREADABLE) for row in rows] == [None, "7", "null", "NaN"]


def test_arrow_files_and_streams(tmp_path: Path) -> None:
    table = pa.table(
        {"url": [u for u, _ in PAIRS], "caption": pa.array([c for _, c in PAIRS]).dictionary_encode()}
    )
    for name, compression in (("a.feather", "lz4"), ("b.arrow", "zstd"), ("c.ipc", "uncompressed")):
        feather.write_feather(table, str(tmp_path / name), compression=compression)
        assert pairs_of(tmp_path / name) == PAIRS
    with pa.ipc.new_stream(str(tmp_path / "d.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    assert pairs_of(tmp_path / "d.arrow") == PAIRS
    assert len(pairs_of(tmp_path, kind="arrow")) == len(PAIRS)  # the others repeat them
    cut = (tmp_path / "d.arrow").read_bytes()[:-100]
    assert "cannot be read" in refusal(write(tmp_path / "e.arrow", cut))
    assert "cannot be read" in refusal(write(tmp_path / "f.arrow", b"no arrow at all"))
    assert "Feather of version 1" in refusal(write(tmp_path / "g.feather", b"FEA1" + bytes(100)))


def test_lists_of_urls_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffhttp://a/1\r\n\r\nhttp://a/2?x=1, 2 \nhttp://a/\u2028")
    assert pairs_of(path) == [("http://a/1", None), ("http://a/2?x=1, 2", None), ("http://a/\u2028", None)]
    tally = Tally()
    list(read_rows(Source(path=str(path)), tally))
    assert tally.files["a.txt"].left_out == {"empty line": 1} and tally.files["a.txt"].records == 4
    assert "has no columns; leave out caption" in refusal(path, caption="text")
    assert pairs_of(path, caption="none")[0] == ("http://a/1", None)


def test_images_without_captions_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url\nftp://a/1\n")
    captioned = Source(path=str(tmp_path / "a.csv"), caption="url", name="other")
    uncaptioned = Source(path=str(tmp_path / "a.csv"), caption="none")
    check_sources([uncaptioned])
    table, _ = read_sources([uncaptioned])
    found = fetch_shard(table, Fetch(robots=False), shard=0, sources=[captioned, uncaptioned])
    assert found["error"].to_pylist() == ["blocked_scheme"]
    assert fetch_shard(table, Fetch(robots=False), shard=0)["error"].to_pylist() == ["bad_caption"]


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", JSONL)
    write(tmp_path / "b.jsonl.gz", gzip.compress(JSONL.encode()))
    write(tmp_path / "c.csv", CSV)
    write(tmp_path / "README", "")
    for private in ("_SUCCESS", "_temporary/0/d.csv", "day=1/_e.csv", "_year=2020/f.csv"):
        write(tmp_path / private, CSV if private.endswith("csv") else "")
    survey = survey_source(Source(path=str(tmp_path)))
    others = "2 without a suffix, 1 .jsonl, 1 .jsonl.gz"
    assert survey is not None and survey.kind == "csv" and survey.read == {".csv": 2}
    assert survey.lines() == [
        "2 .csv read",
        f"{others} not read (of another kind: give them a source of their own)",
        "2 .csv not read (names with _ in front are private: name the files or the folder if they are meant)",
    ]
    assert list(survey.names.values())[1] == ["_temporary/0/d.csv", "day=1/_e.csv"]
    rows = pairs_of(tmp_path)
    assert rows == PAIRS
    assert pairs_of(tmp_path / "_temporary") == PAIRS  # the recipe names it
    assert pairs_of(tmp_path / "day=1" / "_*.csv") == PAIRS


def test_private_names_do_not_tell_what_a_folder_is(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", JSONL)
    write(tmp_path / "_delta_log" / "0.checkpoint.parquet", b"")
    assert pairs_of(tmp_path) == PAIRS


def test_rows_that_are_broken_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", 'url,caption\nhttp://a/1,one\n\nhttp://a/2\n"x"y,z\n"http://a/3","three"\n'
    )
    source, tally = Source(path=str(path)), Tally()
    rows = list(read_rows(source, tally))
    count = tally.files["a.csv"]
    assert (count.records, count.rows, dict(count.left_out)) == (5, 4, {"empty line": 1}) and count.is_whole
    assert sum(UNREADABLE in row.values for row in rows) == 2
    count.records += 1
    assert tally.faults() == ["a.csv: 6 records, of which 4 became rows and 1 were left out"]


def test_the_digest_changes_only_where_a_list_is_read_in_another_way(tmp_path: Path) -> None:
    def is_new(name: str, data: bytes | str, **fields: Any) -> bool:
        source = Source(path=str(write(tmp_path / name, data)), **fields)
        return source_digest(source) != digest_of(find_files(source))

    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "a.parquet")
    assert not is_new("a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert not is_new("a.csv", CSV) and not is_new("a.jsonl", JSONL)
    assert not is_new("a.json", json.dumps([{"conversations": []}]))
    assert (
        is_new("a.tsv", TSV) and is_new("b.csv", CSV.encode("utf-16")) and is_new("c.csv", gzip.compress(b""))
    )
    assert is_new("b.jsonl", json.dumps(RECORDS)) and is_new("a.csv.gz", gzip.compress(CSV.encode()))
    write(tmp_path / "spark" / "_temporary" / "a.csv", CSV)
    write(tmp_path / "spark" / "a.csv", CSV)
    spark = Source(path=str(tmp_path / "spark"))
    assert source_digest(spark) != digest_of(find_files(spark))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_name_that_is_twice_in_an_object(tmp_path: Path, name: str) -> None:
    twice = '{"url": "http://a/1", "caption": "one", "url": "http://a/2"}'
    text = JSONL + twice + "\n" if name == "a.jsonl" else json.dumps(RECORDS)[:-1] + f", {twice}]"
    table, _ = read_sources([Source(path=str(write(tmp_path / name, text)))])
    found = fetch_shard(table.slice(3), Fetch(robots=False), shard=0)
    assert found["error"].to_pylist() == ["bad_row"]
    assert found["detail"].to_pylist() == ["the name 'url' is there twice"]


def test_text_of_other_arrow_types(tmp_path: Path) -> None:
    broken = pa.array([b"caf\xe9", b"fine"], pa.binary())
    views = {
        "url": pa.array(["http://a/1", "http://a/2"], pa.string_view()),
        "caption": broken.view(pa.string()),
    }
    feather.write_feather(pa.table(views), str(tmp_path / "a.feather"), compression="uncompressed")
    assert pairs_of(tmp_path / "a.feather") == [("http://a/1", None), ("http://a/2", "fine")]
    views["caption"] = broken.cast(pa.binary_view()).view(pa.string_view())
    feather.write_feather(pa.table(views), str(tmp_path / "a.feather"), compression="uncompressed")
    assert pairs_of(tmp_path / "a.feather") == [("http://a/1", None), ("http://a/2", "fine")]


def test_fields_that_a_kind_does_not_take(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", JSONL)
    assert "a source of kind jsonl has no delimiter" in refusal(path, delimiter=";")
    assert "a source of kind jsonl has no columns" in refusal(path, columns=("url", "caption"))
    pq.write_table(pa.table({"url": ["u://a"], "caption": ["c"]}), tmp_path / "a.parquet")
    assert "a source of kind parquet has no encoding" in refusal(tmp_path / "a.parquet", encoding="latin-1")
    with pytest.raises(ValidationError, match="only one of url and caption"):
        Source(path="a.jsonl", url="urls[*]", caption="captions[*]")


def test_lance_names_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "pairs.lance" / "_versions" / "1.manifest", b"")
    write(tmp_path / "pairs.lance" / "data" / "0.lance", b"")
    assert "Lance is not read: write the table as Parquet" in refusal(tmp_path / "pairs.lance")
