import random
import sqlite3
from contextlib import closing

import pytest

from rasterloom.errors import StorageError
from rasterloom.storage.store import Store
from rasterloom.versions.catalog_file import check_intact, is_there
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.workspace_check import check_workspace

DAMAGE = {
    "cut within a page": lambda data: data[:5000],
    "cut after a page": lambda data: data[:8192],
    "cut to a few bytes": lambda data: data[:50],
    "random bytes": lambda data: random.Random(0).randbytes(len(data)),
    "random bytes behind the header": lambda data: data[:100] + random.Random(0).randbytes(len(data) - 100),
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "missing": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_catalog_is_named_and_not_written_to(tmp_path, corpus, publish, selection, damage):
    publish(corpus, "one", selection("Ab"), step="selection")
    file = tmp_path / "catalog.db"
    before = DAMAGE[damage](file.read_bytes())
    file.unlink()
    if before is not None:
        file.write_bytes(before)
    reads = (lambda corpus: corpus.table("selection"), lambda corpus: corpus.catalog, check_workspace)
    for name in ("demo", "another"):  # which would overwrite the first one's catalog
        for read in reads:
            with pytest.raises(StorageError) as error:
                read(Corpus(name, Store(str(tmp_path))))
            said = str(error.value)
            assert str(file) in said and "restore the file from a backup" in said and "\n" not in said
    assert (file.read_bytes() if file.exists() else None) == before


def test_a_new_workspace_has_no_catalog_and_one_being_made_is_no_error(tmp_path):
    file = tmp_path / "catalog.db"
    assert not is_there(file)
    file.touch()
    assert not is_there(file)
    assert Corpus("demo", Store(str(tmp_path))).table("selection") is None
    check_workspace(Corpus("demo", Store(str(tmp_path))))
    assert is_there(file)


def test_a_catalog_that_is_locked_is_not_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("rasterloom.versions.catalog_file.LOCKED_S", 0)
    file = tmp_path / "odd #%?é.db"
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("create table t (a)")
        writer.execute("begin exclusive")
        check_intact(file)
