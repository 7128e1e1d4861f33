"""What cannot be worked in is found out at the start, in one line."""

import os
import shutil
import subprocess
import sys
from contextlib import closing

import pytest
from faultproxy import FaultProxy

from rasterloom.errors import StorageError
from rasterloom.storage import s3
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.workspace_check import check_catalog, check_store, check_workspace, unwritable


def test_a_sound_workspace(corpus):
    check_workspace(corpus)
    assert not [n for n in corpus.store.list("") if "preflight" in n], "nothing stays behind"


def test_a_workspace_that_could_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert unwritable(Store(str(tmp_path / "new" / "work"))) == unwritable(Store("s3://bucket/work")) == ""
    below = Store(str(tmp_path / "file" / "work"))
    assert unwritable(below) == f"the workspace {below.root} cannot be written: {tmp_path}/file is no folder"
    with pytest.raises(FileNotFoundError):
        below.read("records/x.json")
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write anywhere
    assert unwritable(Store(str(tmp_path))).endswith(f"cannot be written: no right to write in {tmp_path}")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


ON_A_FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs "$0"
cat /dev/zero > "$0/filler" 2> /dev/null
exec "$1" -c 'import sys
from rasterloom.storage.store import Store
from rasterloom.versions.workspace_check import check_store
check_store(Store(sys.argv[1]))' "$0"
"""


def test_a_full_disk(tmp_path):
    """A file system of its own with hardly any room, in a user namespace, which takes no rights of root."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_FULL_DISK, tmp_path, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = f"rasterloom.errors.StorageError: {tmp_path}: no space is left on this disk, or of your quota"
    assert done.stderr.splitlines()[-1].startswith(said), done


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(StorageError, match=r"work cannot be written: .*(Not a directory|File exists)"):
        check_store(Store(str(tmp_path / "work")))


def test_a_folder_that_may_only_be_read(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere: take what nobody may write to
        folder = "/proc"
    with pytest.raises(StorageError, match="cannot be written"):
        check_store(Store(str(folder)))


def test_a_store_that_ignores_conditions_is_refused(tmp_path, monkeypatch):
    def ignorant(self, name, data):
        self.put(name, data)
        return True

    monkeypatch.setattr(Store, "put_if_absent", ignorant)
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        check_store(Store(str(tmp_path)))


def test_a_catalog_that_nobody_answers_at(tmp_path):
    secret = (("type", "sql"), ("uri", "postgresql+psycopg2://me:hidden@127.0.0.1:9/x"))
    with pytest.raises(StorageError, match=r"the catalog .* cannot be used") as told:
        check_catalog(Corpus("demo", Store(str(tmp_path)), secret))
    assert "hidden" not in str(told.value)
    rest = (("type", "rest"), ("uri", "http://127.0.0.1:9/"))
    with pytest.raises(StorageError, match=r"the catalog http://127.0.0.1:9/ cannot be used"):
        check_catalog(Corpus("demo", Store(str(tmp_path)), rest))


def test_a_catalog_of_the_workspace_that_is_broken(tmp_path):
    corpus = Corpus("demo", Store(str(tmp_path)))
    check_workspace(corpus)
    shutil.copy(__file__, tmp_path / "catalog.db")
    with pytest.raises(StorageError, match=r"the catalog .*catalog.db is damaged"):
        check_workspace(Corpus("demo", Store(str(tmp_path))))


@pytest.fixture
def behind_a_proxy(seaweedfs):
    """A proxy in front of a REST catalog, and a function that gives a corpus that asks through it."""
    with closing(FaultProxy(f"127.0.0.1:{seaweedfs.ports['s3.port.iceberg']}", stall_s=20)) as proxy:
        catalog = {**seaweedfs.catalog, "uri": f"http://{proxy.address}/"}
        yield proxy, lambda: Corpus("demo", Store("s3://lake/x"), tuple(catalog.items()))


def test_a_catalog_that_stalls_is_asked_again_and_not_waited_for(behind_a_proxy, monkeypatch):
    proxy, corpus = behind_a_proxy
    monkeypatch.setattr(s3, "REQUEST_S", 2)
    monkeypatch.setattr(s3, "TRIES", 2)
    stalls = iter([False, True])  # the token comes, then one answer does not
    proxy.choose = lambda *_: "stall" if next(stalls, False) else None
    check_catalog(corpus())
    assert [fault for *_, fault in proxy.seen].count("stall") == 1
    proxy.choose = lambda *_: "stall"
    with pytest.raises(StorageError, match=r"the catalog http://127.0.0.1:\d+/ cannot be used: .*timed out"):
        check_catalog(corpus())
