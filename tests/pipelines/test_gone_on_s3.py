"""A takedown and a gc of a workspace on S3 with a REST catalog, both of a real server."""

from datetime import timedelta

from rasterloom.pipelines.maintenance import gc, reachability, takedown
from rasterloom.pipelines.maintenance.reachability import Grace
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.storage.store import Store
from rasterloom.versions.history import log, made
from rasterloom.versions.verify import verify

AT_ONCE = Grace(versions=timedelta(0), files=timedelta(0))


def test_what_is_taken_down_goes_and_gc_takes_its_files(
    workshop, seaweedfs, undisturbed, monkeypatch, rasterloom
):
    monkeypatch.setattr(reachability, "IN_FLIGHT", timedelta(0))  # nothing is
    shop = workshop.on_s3(seaweedfs)
    shop.run("--until", "lengths")
    assert shop.tables() == undisturbed.tables()
    tokens = undisturbed.rows("tokens")
    doubled = {row["duplicate_of"] for row in undisturbed.rows("selection")}
    keys = [row["key"] for row in tokens if row["key"] not in doubled]
    hashes = {row["key"]: row["sha256"] for row in undisturbed.rows("images")}
    found = takedown.take_down(shop.corpus, [keys[0], hashes[keys[1]]])
    assert set(found.keys) >= set(keys[:2]) and found.number == 1
    less = {
        name: [row for row in rows if row["key"] not in found.keys]
        for name, rows in undisturbed.tables().items()
    }
    assert shop.tables() == less
    printed = shop.run("--until", "lengths")
    assert "8 steps, 1 ran now" in printed and "takedown 1 took rows out of tokens/64" in printed

    store, name = shop.corpus.store, shop.corpus.name
    theirs = f"{name}/staging/images/notes.txt"
    store.put(theirs, b"mine")
    location = Store(shop.corpus.table("images").location())
    metadata = len(location.files(""))
    assert len(log(shop.corpus, "images")) == 2
    place = f"{name}/staging/images/{'f' * 20}/data"
    killed, theirs_begun = f"{place}/000000-0123456789ab-00000.parquet", f"{place}/mine.parquet"
    for begun in (killed, theirs_begun):
        bucket, key = store._object(begun)
        id_ = store._s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        store._s3.upload_part(Bucket=bucket, Key=key, UploadId=id_, PartNumber=1, Body=bytes(1000))
    assert not any(item.kind == "uploads" for item in gc.find(shop.corpus).items), "within the grace"
    with hold_lease(shop.corpus, "run", ["f" * 20]):
        assert not any(item.kind == "uploads" for item in gc.find(shop.corpus, AT_ONCE).items), "in use"
    looked = gc.find(shop.corpus, AT_ONCE)
    assert looked.by_kind()["uploads"] == (1, 1000) and len(store.uploads(name)) == 2
    ages = ("--older-than", "0", "--files-older-than", "0")
    code, printed, error = rasterloom("versions", "gc", shop.recipe_file, *ages, "--dry-run")
    assert code == 0 and "unfinished uploads to S3" in printed, error
    assert not any(item.kind == "data" for item in gc.find(shop.corpus).items), "within the grace"
    before = {file.name for file in store.files(name)}
    gone = gc.collect(shop.corpus, AT_ONCE)
    after = {file.name for file in store.files(name)}
    assert before - after == {item.name for item in gone.items if item.kind not in ("metadata", "uploads")}
    assert [upload.name for upload in store.uploads(name)] == [theirs_begun]
    assert {item.kind for item in looked.items} >= {"data", "metadata"}
    assert theirs in after and len(location.files("")) < metadata
    assert len(log(shop.corpus, "images")) == 1
    held = [file for file in store.list(f"{name}/staging/images") if file.endswith(".parquet")]
    assert sorted(held) == sorted(f.name for f in shop.corpus.files("images")), "none with the rows"
    assert shop.tables() == less and not verify(shop.corpus)[1]
    assert len(made(shop.corpus)) == 5
    assert "8 steps, 0 ran now" in shop.run("--until", "lengths")
    assert gc.find(shop.corpus, AT_ONCE).items == []
