"""read_sources: no row is lost, and a pair comes once."""

import json
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasterloom.errors import SourceError, StorageError
from rasterloom.recipe.sources import Source
from rasterloom.schema import PAIRS, pair_key
from rasterloom.sources import pair_parts, pair_rows
from rasterloom.sources import pairs as pairs_module
from rasterloom.sources.pairs import read_sources, stream_pairs
from rasterloom.sources.readers.registry import source_digest


def parquet(path: Path, **columns: object) -> Source:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return Source(path=str(path))


def test_columns_are_mapped_and_the_others_go_to_meta(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"u": ["http://a"], "t": ["text"], "w": [640], "l": ["CC0"]}), tmp_path / "a.parquet"
    )
    pairs, counts = read_sources(
        [Source(path=str(tmp_path / "a.parquet"), url="u", caption="t", name="mine")]
    )
    assert pairs.schema == PAIRS
    assert pairs.to_pylist() == [
        {
            "key": pair_key("http://a", "text"),
            "url": "http://a",
            "caption": "text",
            "source": "mine",
            "meta": '{"l": "CC0", "w": 640}',
            "weight": 1.0,
            "licence": None,
            "path": None,
            "task": "t2i",
            "turns": None,
            "main": None,
            "more": None,
        }
    ]
    assert counts == {"read": 1, "repeated": 0, "pairs": 1}


def test_all_kinds_of_files_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [("http://a/1", "ein Bär"), ("http://a/2", 'says "hi", then\nleaves'), ("http://a/3", "")]
    urls, captions = [row[0] for row in rows], [row[1] for row in rows]
    parquet(tmp_path / "p.parquet", url=urls, caption=captions)
    csv = "".join('{},"{}"\n'.format(url, text.replace('"', '""')) for url, text in rows)
    (tmp_path / "p.csv").write_text("url,caption\n" + csv, encoding="utf-8")
    (tmp_path / "p.tsv").write_text("url\tcaption\n" + csv.replace(',"', '\t"'), encoding="utf-8")
    lines = "".join(json.dumps({"url": url, "caption": text}) + "\n" for url, text in rows)
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    for suffix in ("parquet", "csv", "tsv", "jsonl"):
        quote = {"quote": '"'} if suffix == "tsv" else {}
        pairs, _ = read_sources([Source(path=str(tmp_path / f"p.{suffix}"), **quote)])
        assert list(zip(pairs["url"].to_pylist(), pairs["caption"].to_pylist(), strict=True)) == rows
        assert pairs["meta"].null_count == 3
        assert pairs["source"].to_pylist() == ["p"] * 3


def test_repeated_pairs_are_counted_across_sources(tmp_path: Path) -> None:
    one = parquet(tmp_path / "one.parquet", url=["a", "a", "b"], caption=["x", "x", "x"])
    two = parquet(tmp_path / "two.parquet", url=["b", "a"], caption=["x", "y"])
    pairs, counts = read_sources([one, two])
    assert counts == {"read": 5, "repeated": 2, "pairs": 3}
    assert pairs["source"].to_pylist() == ["one", "one", "two"]


def test_bad_rows_stay_with_what_they_held(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(
        b'{"url": null, "caption": "no url"}\n'
        b'{"url": "u1", "caption": 7}\n'
        b'{"url": "u2", "caption": "caf\xe9"}\n'
        b'{"url": "u3", "caption": "\\ud800"}\n'
        b'{"url": "u4"}\n'
        b"not json\n"
    )
    pairs, counts = read_sources([Source(path=str(tmp_path / "bad.jsonl"))])
    assert counts == {"read": 6, "repeated": 0, "pairs": 6}
    assert pairs["url"].to_pylist() == [None, "u1", "u2", "u3", "u4", None]
    assert pairs["caption"].to_pylist() == ["no url", None, None, None, None, None]
    meta = [json.loads(text) if text else None for text in pairs["meta"].to_pylist()]
    assert meta[0] is None
    assert meta[1] == {"caption": 7}
    assert meta[2] is not None and meta[2]["caption"].startswith("caf")
    assert meta[5] == {"unreadable_row": "not json"}


def test_invalid_utf8_harms_its_own_row_alone(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"caf\xe9", "größe".encode()], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"url": ["1", "2", "3"], "caption": text}), tmp_path / "a.parquet")
    pairs, _ = read_sources([Source(path=str(tmp_path / "a.parquet"))])
    assert pairs["caption"].to_pylist() == ["fine", None, "größe"]
    (tmp_path / "a.csv").write_bytes(b"url,caption\n1,fine\n2,caf\xe9\n3,gr\xc3\xb6\xc3\x9fe\n")
    pairs, _ = read_sources([Source(path=str(tmp_path / "a.csv"))])
    assert pairs["caption"].to_pylist() == ["fine", None, "größe"]


def test_numbers_for_captions_are_no_text(tmp_path: Path) -> None:
    pairs, counts = read_sources([parquet(tmp_path / "a.parquet", url=["1", "2"], caption=[1.5, 2.5])])
    assert counts["pairs"] == 2
    assert pairs["caption"].null_count == 2
    assert pairs["meta"].to_pylist() == ['{"caption": 1.5}', '{"caption": 2.5}']


def test_meta_is_json_whatever_the_columns_hold(tmp_path: Path) -> None:
    import datetime
    import decimal

    source = parquet(
        tmp_path / "a.parquet",
        url=["u"],
        caption=["c"],
        nan=[float("nan")],
        when=[datetime.datetime(2020, 1, 2)],
        price=[decimal.Decimal("1.50")],
        raw=pa.array([b"\xff\x00"], pa.binary()),
        nested=[{"a": [1, None]}],
    )
    pairs, _ = read_sources([source])
    meta = json.loads(pairs["meta"][0].as_py())
    assert meta["nan"] is None and meta["nested"] == {"a": [1, None]} and meta["price"] == "1.50"


VALUES = st.none() | st.text(max_size=3) | st.integers(0, 2) | st.just("same")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12))
def test_counts_add_up_and_keys_are_unique(tmp_path: Path, rows: list[tuple[object, object]]) -> None:
    lines = [json.dumps({"url": url, "caption": text}) for url, text in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pairs, counts = read_sources([Source(path=str(tmp_path / "a.jsonl"))])
    assert counts["read"] == len(rows) == counts["repeated"] + counts["pairs"]
    assert pairs.num_rows == counts["pairs"] == len(set(pairs["key"].to_pylist()))
    texts = {(url if isinstance(url, str) else None, c if isinstance(c, str) else None) for url, c in rows}
    assert set(zip(pairs["url"].to_pylist(), pairs["caption"].to_pylist(), strict=True)) == texts


def test_digest_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"url,caption\n")
    (tmp_path / "b.csv").write_bytes(b"url,caption\n")
    one, two = (source_digest(Source(path=str(tmp_path / name))) for name in ("a.csv", "b.csv"))
    assert one == two and len(one) == 32
    (tmp_path / "b.csv").write_bytes(b"url,caption\nu,c\n")
    assert source_digest(Source(path=str(tmp_path / "b.csv"))) != one
    with pytest.raises(SourceError, match=r"c\.csv: no such file"):
        source_digest(Source(path=str(tmp_path / "c.csv")))


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 23])
def test_many_rows_come_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(pairs_module, "FILE_ROWS", 8)
    monkeypatch.setattr(pair_rows, "BATCH_ROWS", 4)
    urls = [str(i if i % 5 else i // 2) for i in range(rows)]
    one, two = parquet(tmp_path / "one.parquet", url=urls, caption=["x"] * rows), tmp_path / "two.parquet"
    counts: dict[str, int] = {}
    tables = list(stream_pairs([one, parquet(two, url=urls, caption=["y"] * rows)], counts))
    assert counts["read"] == 2 * rows and counts["pairs"] == sum(table.num_rows for table in tables)
    found = [(row["url"], row["caption"]) for table in tables for row in table.to_pylist()]
    assert found == list(dict.fromkeys((url, text) for text in "xy" for url in urls))
    assert all(table.num_rows <= 8 and table.schema == PAIRS for table in tables)


def test_weight_and_licence_of_a_source_or_of_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption,w,rights\nu1,c,2.5,CC0\nu2,c,-1,\nu3,c,many,MIT\n")
    rows = Source(path=str(tmp_path / "a.csv"), weight={"column": "w"}, licence={"column": "rights"})
    pairs, _ = read_sources([rows])
    assert pairs["weight"].to_pylist() == [2.5, None, None]
    assert pairs["licence"].to_pylist() == ["CC0", "", "MIT"]
    assert pairs["meta"].to_pylist() == [None, '{"w": "-1"}', '{"w": "many"}']
    pairs, _ = read_sources([Source(path=str(tmp_path / "a.csv"), weight=3, licence="CC-BY-4.0")])
    assert pairs["weight"].to_pylist() == [3.0] * 3 and pairs["licence"].to_pylist() == ["CC-BY-4.0"] * 3
    assert json.loads(pairs["meta"][0].as_py()) == {"w": "2.5", "rights": "CC0"}


def test_long_captions_make_short_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_rows, "BATCH_CHARACTERS", 50)
    captions = [str(number) * 20 for number in range(9)]
    pairs, _ = read_sources([parquet(tmp_path / "a.parquet", url=captions, caption=captions)])
    assert pairs["caption"].to_pylist() == captions


@pytest.mark.parametrize("depth", [100, 300, 450, 600, 900])
def test_values_nested_deep(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    (tmp_path / "a.jsonl").write_text(f'{{"url": "u", "caption": "c", "deep": {deep}}}\n')
    pairs, _ = read_sources([Source(path=str(tmp_path / "a.jsonl"))])
    assert set(json.loads(pairs["meta"][0].as_py())) <= {"deep", "unreadable_row"}
    assert pairs["url"].to_pylist() in (["u"], [None])  # as deep as Python reads JSON, or not


def test_two_broken_rows_are_two_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        'not json\nnor this\nnot json\n{"url": 1, "caption": "c"}\n{"url": 2, "caption": "c"}'
    )
    pairs, counts = read_sources([Source(path=str(tmp_path / "a.jsonl"))])
    assert counts == {"read": 5, "repeated": 1, "pairs": 4}
    assert pairs["url"].null_count == 4


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 900), st.binary(min_size=1, max_size=8), st.integers(0, 200))
def test_a_damaged_parquet_file_gives_rows_or_one_error(
    tmp_path: Path, at: int, change: bytes, cut: int
) -> None:
    source = parquet(tmp_path / "fuzz.parquet", url=["a", "b"], caption=["x", "y"], n=[1, 2])
    data = bytearray((tmp_path / "fuzz.parquet").read_bytes())
    data[at : at + len(change)] = change
    (tmp_path / "fuzz.parquet").write_bytes(data[: len(data) - cut] if cut < 20 else data)
    try:
        read_sources([source])
    except SourceError as error:
        assert "\n" not in str(error)


def test_a_full_disk_for_temporary_files_is_named(tmp_path: Path) -> None:
    list_of_pairs = tmp_path / "list.csv"
    list_of_pairs.write_text("url,caption\n" + "".join(f"https://a.test/{i},{i * 'x'}\n" for i in range(999)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        with pytest.raises(StorageError, match=r"no space is left for temporary files.* set TMPDIR"):
            read_sources([Source(path=str(list_of_pairs))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_several_processes_give_the_rows_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of several kinds, repeated pairs within and across them, rows that are none, unread files."""
    monkeypatch.setattr(pair_parts, "LEAST_BYTES", 1)
    monkeypatch.setattr(pairs_module, "FILE_ROWS", 25)
    monkeypatch.setattr(pair_rows, "BATCH_ROWS", 5)
    for number in range(6):
        urls = [f"https://a.test/{i * (number % 3 + 1)}.jpg" for i in range(40)]
        parquet(tmp_path / f"lists/{number}.parquet", url=[*urls, None], caption=["x"] * 41, more=[1.5] * 41)
    (tmp_path / "lists/_private.parquet").write_bytes(b"")
    (tmp_path / "one.csv").write_text("url,caption\nhttps://a.test/0.jpg,x\n,\nhttps://b.test/0.jpg,\n")
    sources = [Source(path=f"{tmp_path}/lists"), Source(path=f"{tmp_path}/one.csv")]
    found = []
    for processes in (1, 3):
        counts: dict[str, int] = {}
        tables = list(stream_pairs(sources, counts, processes=processes))
        found.append((tables, counts))
    assert len(pair_parts.parts_of(sources, 3)) > 3
    (one, counts_of_one), (several, counts_of_several) = found
    assert counts_of_one == counts_of_several and counts_of_one["repeated"] > 50
    assert [table.num_rows for table in one] == [table.num_rows for table in several]
    assert pa.concat_tables(one).equals(pa.concat_tables(several))


def test_an_error_of_a_process_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_parts, "LEAST_BYTES", 1)
    parquet(tmp_path / "lists/0.parquet", url=["https://a.test/0.jpg"], caption=["x"])
    (tmp_path / "lists/1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"lists/1\.parquet: cannot be read"):
        list(stream_pairs([Source(path=f"{tmp_path}/lists")], {}, processes=2))


def test_short_lists_are_read_by_one_process(tmp_path: Path) -> None:
    for number in range(3):
        parquet(tmp_path / f"lists/{number}.parquet", url=["https://a.test/0.jpg"], caption=["x"])
    assert pair_parts.parts_of([Source(path=f"{tmp_path}/lists")], 8) == []
