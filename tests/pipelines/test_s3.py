"""A workspace on S3 with a REST catalog, both of a real server."""

import random

import pytest
from faultproxy import FaultProxy

from rasterloom.versions.history import log


@pytest.fixture
def on_s3(workshop, seaweedfs):
    """The workshop's recipe with its workspace on S3."""
    return workshop.on_s3(seaweedfs)


def test_the_tables_are_those_of_a_local_workspace(on_s3, undisturbed):
    on_s3.run("--until", "tokens")
    mine, theirs = on_s3.tables(), undisturbed.tables()
    for table, rows in theirs.items():
        assert [row for row in mine[table] if row not in rows] == []
    assert mine == theirs
    assert "7 steps, 0 ran now" in on_s3.run("--until", "tokens")


def test_two_runs_at_once_make_each_version_once(on_s3, undisturbed):
    both = [on_s3.start("--until", "tokens") for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert on_s3.tables() == undisturbed.tables()
    assert sorted(v.record.step for v in log(on_s3.corpus)) == sorted(
        v.record.step for v in log(undisturbed.corpus)
    )


def test_a_run_through_faults_ends_with_the_same_tables(on_s3, undisturbed, seaweedfs, monkeypatch):
    """One request in twenty is spoilt, of the data's and of the catalog's: nothing is lost or doubled."""
    chance = random.Random(5)
    kinds = ("500", "503", "reset", "reset_after")
    ports = {"data": seaweedfs.ports["s3.port"], "catalog": seaweedfs.ports["s3.port.iceberg"]}
    proxies = {name: FaultProxy(f"127.0.0.1:{port}") for name, port in ports.items()}
    try:
        for proxy in proxies.values():
            proxy.choose = lambda *_: chance.choice(kinds) if chance.random() < 0.05 else None
        recipe = on_s3.recipe_file
        recipe.write_text(
            recipe.read_text().replace(f"127.0.0.1:{ports['catalog']}/", f"{proxies['catalog'].address}/")
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxies['data'].address}")
        on_s3.run("--until", "tokens")
        spoilt = {name: sum(f is not None for *_, f in p.seen) for name, p in proxies.items()}
        assert spoilt["data"] > 20 and spoilt["catalog"] > 0, spoilt
        for proxy in proxies.values():
            proxy.choose = lambda *_: None
        assert on_s3.tables() == undisturbed.tables()
    finally:
        for proxy in proxies.values():
            proxy.close()
