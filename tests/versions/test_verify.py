"""Broken files of a version are named, and what still stands is counted."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.schema import SELECTION
from rasterloom.versions.commit import commit
from rasterloom.versions.record import Record
from rasterloom.versions.verify import verify


@pytest.fixture
def files(corpus):
    """Three files of a selection, of two rows each, as committed."""
    names = []
    for number in range(3):
        rows = [{"key": f"{number}{n}" * 100, "shard": number, "kept": True} for n in range(2)]
        names.append(f"demo/{number}.parquet")
        corpus.store.write_parquet(
            names[-1], pa.Table.from_pylist(rows, schema=SELECTION), compression="none"
        )
    commit(corpus, "selection", SELECTION, names, Record("selection", "f", "1", {}, {}))
    return [Path(corpus.store.path(name)) for name in names]


def broken(corpus, **options):
    (standing,), problems = verify(corpus, **options)
    assert (standing.files, standing.rows) == (3, 6)
    assert (standing.good_files, standing.good_rows) == (3 - len(problems), 6 - 2 * len(problems))
    return {Path(p.file).name: p.what for p in problems}


def test_a_sound_version(corpus, files):
    looked_at = []
    assert broken(corpus, advance=lambda done, total: looked_at.append(done)) == {}
    assert looked_at == [1, 2, 3]


def test_missing_cut_and_replaced_files_are_named(corpus, files):
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    found = broken(corpus)
    assert found.keys() == {"0.parquet", "1.parquet"}
    assert found["0.parquet"] == "is not there"
    assert "were committed" in found["1.parquet"]


def test_a_flipped_bit_is_found_by_the_checksum_of_its_page(corpus, files):
    data = bytearray(files[2].read_bytes())
    data[data.index(b"21212121")] ^= 1  # within a key: still valid Parquet
    files[2].write_bytes(data)
    pq.read_table(files[2])
    assert broken(corpus, deep=False) == {}
    assert "CRC" in broken(corpus)["2.parquet"]


def test_broken_metadata_is_named(corpus, files):
    head = corpus.table("selection").current_snapshot()
    Path(head.manifest_list.removeprefix("file://")).write_bytes(b"no avro")
    standing, (problem,) = verify(corpus)
    assert standing == [] and "metadata cannot be read" in problem.what
