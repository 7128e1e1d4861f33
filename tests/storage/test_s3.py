"""The store on an S3 server that fails: tried again, or one line; never lost, never doubled."""

import random
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faultproxy import FaultProxy

from rasterloom.errors import StorageError
from rasterloom.storage import s3 as s3_module
from rasterloom.storage.store import Store
from rasterloom.versions.workspace_check import check_store


@pytest.fixture
def proxy(seaweedfs, monkeypatch):
    """A proxy in front of the server, and the variables set that lead through it."""
    proxy = FaultProxy(f"127.0.0.1:{seaweedfs.ports['s3.port']}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
    yield proxy
    proxy.close()


@pytest.fixture
def store(proxy):
    return Store(f"s3://lake/{uuid.uuid4().hex}")


def once(fault, method="PUT"):
    """Spoil the first request of a method."""
    left = [fault]
    return lambda asked, path, number: left.pop() if left and asked == method else None


@pytest.mark.parametrize("fault", ["500", "503", "reset", "reset_after", "stall"])
def test_a_conditional_write_is_tried_again_and_knows_its_own_bytes(proxy, store, fault, monkeypatch):
    monkeypatch.setattr(s3_module, "REQUEST_S", 1)
    proxy.choose = once(fault)
    assert store.put_if_absent("a", b"mine"), "the write whose answer was lost was this one"
    assert not store.put_if_absent("a", b"yours")
    assert store.read("a") == b"mine"
    assert [f for _, _, f in proxy.seen if f] == [fault]


@pytest.mark.parametrize("fault", ["500", "503", "reset", "reset_after"])
def test_data_files_are_written_whole(proxy, store, fault):
    table = pa.table({"a": list(range(1000))})
    proxy.choose = once(fault)
    store.write_parquet("t.parquet", table)
    proxy.choose = once(fault, "GET")
    assert pq.read_table(store.path("t.parquet"), filesystem=store.filesystem) == table


def test_a_body_that_breaks_off_is_read_again_or_an_error(proxy, store):
    store.put("a", bytes(1_000_000))
    proxy.choose = once("truncate", "GET")
    try:
        assert store.read("a") == bytes(1_000_000)
    except OSError as error:
        assert "a" in str(error)


def test_a_server_that_never_recovers_is_one_line(proxy, store, monkeypatch):
    monkeypatch.setattr(s3_module, "TRIES", 2)
    proxy.choose = lambda method, path, number: "503"
    with pytest.raises(StorageError, match="SlowDown: the server kept asking for fewer requests"):
        store.put_if_absent("a", b"1")
    proxy.choose = lambda method, path, number: "expired"
    with pytest.raises(StorageError, match="ExpiredToken: the session token has expired") as told:
        check_store(store)
    assert "secretsecret" not in str(told.value)


def test_a_random_hail_of_faults(proxy, store):
    """Fifty writers' worth of shards: each published once, with the bytes of who was told so."""
    chance = random.Random(3)
    kinds = ("500", "503", "reset", "reset_after")
    proxy.choose = lambda method, path, number: chance.choice(kinds) if chance.random() < 0.2 else None
    for shard in range(25):
        names = [f"{shard}", f"{shard}"]
        won = [store.put_if_absent(name, b"%d" % number) for number, name in enumerate(names)]
        assert won == [True, False] and store.read(f"{shard}") == b"0"
    assert sum(fault is not None for _, _, fault in proxy.seen) > 10


@pytest.mark.parametrize(
    ("variables", "bucket", "words"),
    [
        ({}, "nowhere", "NoSuchBucket: there is no such bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "lake", "SignatureDoesNotMatch: the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "stranger"}, "lake", "InvalidAccessKeyId: the access key is not known"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "lake", "nobody answers: see AWS_ENDPOINT_URL"),
    ],
)
def test_what_is_set_wrong_is_said_before_anything_runs(seaweedfs, monkeypatch, variables, bucket, words):
    monkeypatch.setattr(s3_module, "TRIES", 1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=words) as told:
        check_store(Store(f"s3://{bucket}/work"))
    assert "\n" not in str(told.value) and "wrong" not in str(told.value).replace("key is wrong", "")
