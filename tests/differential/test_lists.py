"""Lists as DuckDB, pyarrow and Python's csv and json read them: the same rows, a reason, or a refusal.

Lists are drawn and written, and their bytes are changed. Where a list is not refused and no row of it is
counted as unusable, its rows are those that the other readers find.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.pairs import check_sources
from rasterloom.sources.readers.registry import read_rows
from rasterloom.sources.readers.row import NO_PAIR
from rasterloom.sources.readers.tally import Tally
from rasterloom.sources.readers.tasks import text_of

DUCKDB = duckdb.connect(config={"threads": 1})
IS_NIGHT = settings.get_current_profile_name() == "night"
SOME = settings(
    max_examples=600 if IS_NIGHT else 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Pair = tuple[str | None, str | None]
FIRST: Pair = ("http://a/0", "the first")  # so that the sample can be used

# What readers of lists have stumbled over: separators, quotes, line ends of Unicode, marks, words for null.
ODD = [
    *',\t;"\'\\ |\n\r#=@{}[]:/\0\ufeff\u00a0\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\x7f',
    "\r\n", '""', '","', '"\n', "NULL", "null", "NaN", "N/A", "nan", "\\N", "\\n", "é", "ß", "日本",
    "\U0001f3a8", "\u202e", "http://a/", "a", "b", "1", "0.5",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(ODD), max_size=6).map("".join) | st.sampled_from(
    ["", "a caption", "x" * 140_000]
)
CELL = st.tuples(st.sampled_from(["http://a/", "ftp://h/p?q=1,2", ""]), TEXT).map("".join)


@dataclass(frozen=True)
class Ours:
    """Rows as they are read here: usable ones, and how many are counted with a reason."""

    rows: list[Pair]
    counted: int


def ours(path: Path, **fields: Any) -> Ours | None:
    """Read a list. None if it is refused in one line."""
    source = Source(path=str(path), **fields)
    tally = Tally()
    try:
        check_sources([source])
        rows = list(read_rows(source, tally))
    except SourceError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1, str(error)
        event("refused")
        return None
    assert tally.faults() == []
    found, counted = [], 0
    for row in rows:
        cells = [row.values.get("url"), row.values.get("caption")]
        if row.values.keys() & NO_PAIR or any(cell is not None and text_of(cell) is None for cell in cells):
            counted += 1
        else:
            found.append((text_of(cells[0]), text_of(cells[1])))
    return Ours(found, counted)


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Change bytes: at a place, so many go, and others come."""
    for place, gone, come in changes:
        at = place % (len(data) + 1)
        data = data[:at] + come + data[at + gone :]
    return data


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.sampled_from([0, 0, 1, 1, 2, 1 << 30]),
        st.sampled_from(
            [
                b"",
                b'"',
                b",",
                b"\n",
                b"\r",
                b"\0",
                b"\xff",
                b"\\",
                b"{",
                b"]",
                b"\t",
                b"\xef\xbb\xbf",
                b"\xc3",
            ]
        ),
    ),
    max_size=3,
)
BYTES = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from([0, 1, 8, 1 << 30]), st.binary(max_size=6)), max_size=2
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
ENCODINGS += ["latin-1", "cp1252", "shift_jis", "gb18030"]
ROWS = st.lists(st.tuples(CELL, CELL), max_size=5).map(lambda rows: [FIRST, *rows])
NO_CHANGES = st.just([])


def agree(found: Ours | None, others: dict[str, list[Pair] | None], data: bytes) -> None:
    """Compare with what other readers find; None where they refuse. Empty text and null are one here."""
    if found is None:
        return
    event("counted" if found.counted else "equal")
    mine = [(url or "", caption or "") for url, caption in found.rows]
    for name, rows in others.items():
        event(f"{name} {'refuses' if rows is None else 'reads'}")
        if rows is not None:
            theirs = [(url or "", caption or "") for url, caption in rows]
            assert len(mine) + found.counted >= len(theirs), (name, data[:2000])
            if not found.counted:
                assert mine == theirs, (name, data[:2000])


def by_python(data: bytes, delimiter: str, quoting: int, quote: str | None) -> list[Pair] | None:
    """The rows of Python's csv, none if one of them does not fit the header."""
    try:
        text = data.decode("utf-8-sig")
        rows = list(
            csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, quotechar=quote)
        )
    except (UnicodeDecodeError, csv.Error):
        return None
    rows = [row for row in rows if row]
    names = rows[0] if rows else []
    if any(len(row) != len(names) for row in rows) or not {"url", "caption"} <= {*names}:
        return None
    return [(row[names.index("url")], row[names.index("caption")]) for row in rows[1:]]


def by_arrow(data: bytes, delimiter: str, quote: str | None) -> list[Pair] | None:
    columns = {"url": pa.string(), "caption": pa.string()}
    try:
        table = pacsv.read_csv(
            io.BytesIO(data),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, quote_char=quote or False, newlines_in_values=bool(quote)
            ),
            convert_options=pacsv.ConvertOptions(column_types=columns, include_columns=list(columns)),
        )
    except (pa.ArrowException, KeyError, UnicodeDecodeError):
        return None
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def by_duckdb(path: Path, delimiter: str, quote: str | None, names: list[str]) -> list[Pair] | None:
    text = path.read_bytes().decode("utf-8-sig", "replace")
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    if not header or any("\n" in name or "\r" in name for name in header):
        return None  # it loses rows where the header is an empty line, or has one in a name (its issue 16760)
    columns = "{" + ", ".join(f"'{name}': 'VARCHAR'" for name in names) + "}"
    options = f"delim={sql(delimiter)}, quote={sql(quote or '')}, escape={sql(quote or '')}, header=true"
    return rows_of_duckdb(
        f"select url, caption from read_csv({sql(str(path))}, columns={columns}, auto_detect=false, "
        f"{options}, strict_mode=true, max_line_size=10000000)"
    )


def sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def rows_of_duckdb(query: str) -> list[Pair] | None:
    try:
        return DUCKDB.execute(query).fetchall()
    except duckdb.Error:
        return None


@st.composite
def separated(draw: st.DrawFn, quote: str | None, delimiter: str) -> tuple[bytes, list[str]]:
    """A list of separated values, as many programs write them, and the names of its columns."""
    names = draw(
        st.sampled_from([["url", "caption"], ["n", "url", "caption"], ["caption", "url", "a b", "n"]])
    )
    end = draw(st.sampled_from(["\n", "\r\n"]))
    pairs = draw(ROWS)
    out = io.StringIO(newline="")
    if quote:
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        options: dict[str, Any] = {"delimiter": delimiter, "quotechar": quote, "lineterminator": end}
        csv.writer(out, quoting=quoting, **options).writerow(names)

        def write(values: list[str]) -> Any:
            lone = any("\r" in value for value in values)  # which Python's writer does not quote by itself
            csv.writer(out, quoting=csv.QUOTE_ALL if lone else quoting, **options).writerow(values)

    else:  # as programs do that know of no quotes: what would end a value is left out
        kept = str.maketrans({delimiter: " ", "\n": " ", "\r": " "})
        out.write(delimiter.join(names) + end)

        def write(values: list[str]) -> Any:  # type: ignore[misc]
            out.write(delimiter.join(value.translate(kept) for value in values) + end)

    for url, caption in pairs:
        cells = {"url": url or "", "caption": caption or ""}
        write([cells.get(name) if name in cells else draw(TEXT) for name in names])  # type: ignore[misc]
        if draw(st.integers(0, 9)) == 0:
            out.write(end)
    text = out.getvalue()
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(), names


@pytest.mark.parametrize(
    ("suffix", "delimiter", "quote"), [("csv", ",", '"'), ("tsv", "\t", None), ("tsv", "\t", '"')]
)
@SOME
@given(data=st.data(), changes=NO_CHANGES | CHANGES)
def test_separated_values(
    tmp_path: Path, suffix: str, delimiter: str, quote: str | None, data: Any, changes: Any
) -> None:
    written, names = data.draw(separated(quote, delimiter))
    written = changed(written, changes)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(written)
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    others = {
        "csv": by_python(written, delimiter, quoting, quote),
        "pyarrow": by_arrow(written, delimiter, quote),
        "DuckDB": by_duckdb(path, delimiter, quote, names),
    }
    found = ours(
        path, **({"quote": quote} if suffix == "tsv" and quote else {"quote": "none"} if not quote else {})
    )
    agree(found, others, written)
    if not changes:
        assert found is not None and not found.counted  # what programs write is read


@st.composite
def objects(draw: st.DrawFn) -> list[dict[str, Any]]:
    value = TEXT | st.none() | st.sampled_from([1, 0.5, True, [], {}, ["x"], "\ud800", float("nan"), 10**30])
    more = st.dictionaries(st.sampled_from(["n", "a b", "url ", "\ufeff", "x\ny"]), value, max_size=2)
    rows = [{"url": FIRST[0], "caption": FIRST[1]}]
    for _ in range(draw(st.integers(0, 4))):
        row: dict[str, Any] = {"url": draw(CELL | value), "caption": draw(value), **draw(more)}
        for name in ("url", "caption"):
            if draw(st.integers(0, 9)) == 0:
                del row[name]
        rows.append(row)
    return rows


FORMS: dict[str, Callable[[list[str]], str]] = {
    "lines": lambda rows: "".join(row + "\n" for row in rows),
    "lines without an end": "\n".join,
    "lines of Windows": lambda rows: "".join(row + "\r\n" for row in rows),
    "lines with gaps": lambda rows: "\n\n \n".join(rows),
    "list": lambda rows: "[" + ", ".join(rows) + "]",
    "list in lines": lambda rows: "[\n" + ",\n".join(rows) + "\n]\n",
    "one after another": "".join,
}


def by_json(data: bytes) -> list[Pair] | None:
    """The rows of Python's json: of a list, or of values one after another; none if one is no row."""
    try:
        text = data.decode("utf-8-sig")
        values: list[Any] = []
        position = 0
        while text[position:].strip(" \t\r\n"):
            position += len(text[position:]) - len(text[position:].lstrip(" \t\r\n"))
            value, position = json.JSONDecoder().raw_decode(text, position)
            values.append(value)
    except (ValueError, RecursionError):
        return None
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not all(isinstance(value, dict) for value in values):
        return None
    return [(text_of(value.get("url")), text_of(value.get("caption"))) for value in values]


def by_arrow_json(data: bytes) -> list[Pair] | None:
    schema = pa.schema({"url": pa.string(), "caption": pa.string()})
    options = pajson.ParseOptions(
        explicit_schema=schema, newlines_in_values=True, unexpected_field_behavior="ignore"
    )
    try:
        table = pajson.read_json(io.BytesIO(data), parse_options=options)
        return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def by_duckdb_json(path: Path) -> list[Pair] | None:
    """The rows of DuckDB, none where it would make text of other values."""
    found = rows_of_duckdb(
        "select json_type(url), json_type(caption), url->>'$', caption->>'$' from "
        f"read_json({sql(str(path))}, columns={{url: 'JSON', caption: 'JSON'}}, format='auto')"
    )
    if found is None or any(kind not in ("VARCHAR", "NULL", None) for row in found for kind in row[:2]):
        return None
    return [(row[2], row[3]) for row in found]  # type: ignore[misc]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@SOME
@given(
    rows=objects(),
    form=st.sampled_from(sorted(FORMS)),
    indent=st.none() | st.just(1),
    ascii_=st.booleans(),
    changes=NO_CHANGES | CHANGES,
)
def test_json(
    tmp_path: Path, suffix: str, rows: Any, form: str, indent: Any, ascii_: bool, changes: Any
) -> None:
    texts = [json.dumps(row, ensure_ascii=ascii_, indent=indent) for row in rows]
    written = changed(FORMS[form](texts).encode("utf-8", "surrogatepass"), changes)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(written)
    others = {"json": by_json(written), "pyarrow": by_arrow_json(written), "DuckDB": by_duckdb_json(path)}
    found = ours(path)
    agree(found, others, written)
    if not changes:
        assert found is not None
        assert len(found.rows) + found.counted == len(rows)


UNPACK: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gz": (gzip.compress, gzip.decompress),
    "bz2": (bz2.compress, bz2.decompress),
    "xz": (lzma.compress, lzma.decompress),
    "zst": (
        zstandard.ZstdCompressor(write_checksum=True).compress,
        lambda data: zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read(),
    ),
}


@pytest.mark.parametrize("suffix", UNPACK)
@SOME
@given(
    rows=ROWS,
    cuts=st.lists(st.integers(0, 400), max_size=3).map(sorted),
    changes=NO_CHANGES | BYTES,
)
def test_compressed_lists(tmp_path: Path, suffix: str, rows: Any, cuts: list[int], changes: Any) -> None:
    pack, unpack = UNPACK[suffix]
    text = "".join(json.dumps({"url": url, "caption": caption}) + "\n" for url, caption in rows).encode()
    places = [0, *(cut % len(text) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in pieces(sorted(places))]
    written = changed(b"".join(map(pack, parts)), changes)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(written)
    found = ours(path)
    try:
        unpacked: bytes | None = unpack(written)
    except Exception:  # each of them raises its own
        unpacked = None
    if not changes:
        assert found == Ours(rows, 0)
    elif found is not None and unpacked is not None:
        plain = tmp_path / "plain.jsonl"
        plain.write_bytes(unpacked)
        assert found == ours(plain)
    elif found is not None:
        assert not written, "a broken file is not refused"


def pieces(places: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(places)


@SOME
@given(
    rows=ROWS,
    encoding=st.sampled_from(ENCODINGS),
    form=st.sampled_from(["csv", "jsonl", "json", "txt"]),
    changes=NO_CHANGES | CHANGES,
)  # fmt: skip
def test_encodings(tmp_path: Path, rows: Any, encoding: str, form: str, changes: Any) -> None:
    if form == "csv":
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerows([("url", "caption"), *rows])
        text = out.getvalue()
    elif form == "txt":
        text = "".join("http://a/" + "".join((url or "").split()) + "\n" for url, _ in rows)
    else:
        records = [{"url": url, "caption": caption} for url, caption in rows]
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        text = lines if form == "jsonl" else json.dumps(records, ensure_ascii=False)
    written = changed(text.encode(encoding, "ignore"), changes)
    marked = encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    fields = {} if marked else {"encoding": encoding}
    path, plain = tmp_path / f"a.{form}", tmp_path / f"plain.{form}"
    path.write_bytes(written)
    found = ours(path, **fields)
    try:
        plain.write_text(written.decode(encoding), encoding="utf-8", newline="")
    except UnicodeDecodeError:
        return
    expected = ours(plain)
    if found is not None and expected is not None and not text.startswith("\ufeff"):
        assert found == expected, written[:2000]
    if not changes:
        assert found is not None


@SOME
@given(lines=st.lists(TEXT, max_size=5), changes=NO_CHANGES | CHANGES)
def test_urls_alone(tmp_path: Path, lines: list[str], changes: Any) -> None:
    written = changed("".join(line + "\n" for line in ("http://a/0", *lines)).encode(), changes)
    (tmp_path / "a.txt").write_bytes(written)
    found = ours(tmp_path / "a.txt")
    if found is not None and not found.counted:
        mark = b"\xef\xbb\xbf"
        lines_ = [line for line in written.removeprefix(mark).split(b"\n") if line.strip()]
        held = [(url or "").encode() for url, _ in found.rows]
        assert [line.removeprefix(mark).strip(b"\r\t ") for line in lines_] == held


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    texts = [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
    pairs: list[Pair] = draw(st.lists(st.tuples(CELL | st.none(), CELL | st.none()), max_size=6))
    pairs = [FIRST, *pairs]
    columns = {}
    for name, values in zip(("url", "caption"), zip(*pairs, strict=True), strict=True):
        kind = draw(st.sampled_from(texts))
        if pa.types.is_dictionary(kind):
            columns[name] = pa.array(values, pa.string()).dictionary_encode()
        else:
            columns[name] = pa.array(values, pa.string()).cast(kind)
    more = draw(st.sampled_from([None, [1.5], [[1, 2]], [{"a": None}], [b"\xff"]]))
    if more:
        columns["more"] = pa.array(more * len(pairs))
    return pa.table(columns)


@SOME
@given(
    table=tables(),
    group=st.integers(1, 4),
    compression=st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    changes=NO_CHANGES | BYTES,
)  # fmt: skip
def test_parquet(tmp_path: Path, table: pa.Table, group: int, compression: str, changes: Any) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=group, compression=compression)
    written = changed(path.read_bytes(), changes)
    path.write_bytes(written)
    found = ours(path)
    duck = rows_of_duckdb(
        f"select url::varchar, caption::varchar from read_parquet({sql(str(path))}, binary_as_string=true)"
    )
    try:
        plain = [
            tuple(map(text_of, row.values()))
            for row in pq.read_table(path, columns=["url", "caption"]).to_pylist()
        ]
    except Exception:  # it raises whatever its many parts raise
        plain = None
    agree(found, {"pyarrow": plain, **({} if changes else {"DuckDB": duck})}, written)  # type: ignore[dict-item]
    if not changes:
        assert found is not None and duck is not None and plain is not None
