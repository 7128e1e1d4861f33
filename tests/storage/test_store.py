import pickle
import subprocess
import sys
import threading
import uuid

import pytest

from rasterloom.errors import StorageError
from rasterloom.storage.store import Store


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    """A store on a disk, and one on a real S3 server."""
    if request.param == "disk":
        return Store(str(tmp_path / "work with space"))
    return Store(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}/work")


def test_one_of_many_writers_wins_and_readers_see_its_bytes(store):
    start = threading.Barrier(8)
    won = []

    def write(number):
        start.wait()
        if store.put_if_absent("a/b.json", b"%d" % number * 1000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("a/b.json") == b"%d" % won[0] * 1000
    assert store.list("a") == ["a/b.json"], "temporary files stay behind"


def test_put_replaces_and_delete_forgives(store):
    store.put("x", b"1")
    store.put("x", b"2")
    assert store.read("x") == b"2"
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")
    with pytest.raises(FileNotFoundError):
        store.read("x")


def test_a_name_survives_its_uri(store):
    for name in ("a/b.parquet", "ü/%20 c", "d#e"):
        assert store.name_of(store.uri(name)) == name
        store.put(name, name.encode())
        assert store.read(name) == name.encode() and store.exists(name)
    assert store.list("") == sorted(["a/b.parquet", "ü/%20 c", "d#e"])
    with pytest.raises(StorageError, match="does not lie in"):
        store.name_of("file:///elsewhere/a")
    remote = Store("s3://bucket/some/prefix")
    assert remote.uri("a/b") == "s3://bucket/some/prefix/a/b"
    assert remote.name_of("s3://bucket/some/prefix/a/b") == "a/b"
    assert remote.path("a/b") == "bucket/some/prefix/a/b"


def test_nothing_there_lists_nothing(store):
    assert store.list("nowhere") == []


def test_a_store_travels(store):
    store.put("x", b"1")
    assert store.filesystem
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_other_schemes_are_refused():
    with pytest.raises(StorageError, match="s3://"):
        Store("gs://bucket")


def begin(store, name, *parts):
    """Begin an upload and write parts of it, as a writer that is killed leaves it."""
    bucket, key = store._object(name)
    begun = store._s3.create_multipart_upload(Bucket=bucket, Key=key)
    for number, size in enumerate(parts, 1):
        place = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
        store._s3.upload_part(**place, PartNumber=number, Body=bytes(size))


def test_unfinished_uploads_are_found_measured_and_given_up(s3):
    store = Store(f"{s3}/{uuid.uuid4().hex}/work")
    begin(store, "a/one", 5 * 2**20, 1000)
    begin(store, "a/one")
    begin(store, "a/b/two", 10)
    begin(store, "ab/other", 10)
    store.put("a/whole", b"1")
    found = sorted(store.uploads("a"), key=lambda upload: (upload.name, -store.uploaded(upload)))
    assert [upload.name for upload in found] == ["a/b/two", "a/one", "a/one"]
    assert [store.uploaded(upload) for upload in found] == [10, 5 * 2**20 + 1000, 0]
    for upload in found[:2]:
        store.abort(upload)
        store.abort(upload)
        assert store.uploaded(upload) == 0
    assert store.uploads("a") == found[2:] and len(store.uploads("ab")) == 1
    assert store.list("") == ["a/whole"]


def test_a_disk_has_no_uploads(tmp_path):
    assert Store(str(tmp_path)).uploads("a") == []


AT_ITS_LIMIT = """
import resource, sys
import pyarrow as pa
from rasterloom.storage.store import StorageError, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store, table = Store(sys.argv[1]), pa.table({"a": pa.array([str(i) for i in range(100_000)])})
store.put("small", b"1")
big = bytes(200_000)
for write in (lambda: store.write_parquet("data/t", table), lambda: store.put_if_absent("big", big)):
    try:
        write()
    except StorageError as error:
        print(error)
"""


def test_what_does_not_fit_leaves_nothing_behind(tmp_path):
    """The kernel refuses to let a file grow: a limit that takes no rights to set, in a process of its own."""
    place = tmp_path / "work"
    command = [sys.executable, "-c", AT_ITS_LIMIT, str(place)]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    ).stdout.splitlines()
    assert [line.partition(": no space is left on this disk")[0] for line in said] == [
        str(place / "data"),
        str(place),
    ]
    assert Store(str(place)).list("") == ["small"]
