"""What nothing reaches goes, and nothing else: after it all that there was before still works."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rasterloom.errors import VersionError
from rasterloom.pipelines.maintenance import gc
from rasterloom.pipelines.maintenance.reachability import Grace
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.storage.store import Store
from rasterloom.versions import lineage
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.refs import delete, refs, tag
from rasterloom.versions.verify import verify

NOTHING = timedelta(0)
AT_ONCE = Grace(versions=NOTHING, files=NOTHING)
STRICTER = "min_side >= 100"


def files(shop):
    """Everything in the workspace but the catalog, with size."""
    top = Path(shop.corpus.store.path())
    found = {p.relative_to(top).as_posix(): p.stat().st_size for p in top.rglob("*") if p.is_file()}
    return {name: size for name, size in found.items() if not name.startswith("catalog.db")}


def whole(shop):
    """All that a user would look at still stands, and a run has nothing to do."""
    standing, problems = verify(shop.corpus)
    assert len(standing) == 5 and not problems
    assert "8 steps, 0 ran now" in shop.run("--until", "lengths")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, workshop_at):
    """A corpus of two versions, the first of which is tagged."""
    shop = workshop_at(tmp_path_factory.mktemp("gc") / "recipe.yaml").write()
    shop.run("--until", "lengths")
    shop.first = shop.tables()
    tag(shop.corpus, "v1")
    shop.write(keep=STRICTER).run("--until", "lengths")
    shop.second = shop.tables()
    assert shop.first["tokens"] != shop.second["tokens"]
    return shop


def test_within_the_grace_nothing_goes(shop, rasterloom):
    before = files(shop)
    code, out, err = rasterloom("versions", "gc", shop.recipe_file, "--yes")
    assert code == 0 and "There is nothing to remove" in out, err
    found = gc.find(shop.corpus, Grace(versions=NOTHING))
    assert not found.items, "every file is young"
    assert files(shop) == before


def test_what_a_tag_holds_stays(shop):
    before = set(files(shop))
    half = gc.find(shop.corpus, AT_ONCE).snapshots
    assert half == {"selection": 1, "tokens": 1}, "those in which the old rows are gone and the new not there"
    gc.collect(shop.corpus, AT_ONCE)
    gone = {name for name in before - set(files(shop)) if "/metadata/" not in name}
    assert gone == set()
    old = replace(shop.corpus, ref="v1")
    assert old.read("tokens").num_rows == len(shop.first["tokens"])


def test_without_yes_nothing_goes(shop, rasterloom):
    delete(shop.corpus, "v1")
    before = files(shop)
    ages = ("--older-than", "0", "--files-older-than", "0")
    code, out, err = rasterloom("versions", "gc", shop.recipe_file, *ages, "--dry-run")
    assert code == 0 and "snapshots of selection" in out and "data files" in out, err
    code, out, err = rasterloom("versions", "gc", shop.recipe_file, *ages)
    assert code == 0 and "Nothing was removed: --yes removes it" in out, err
    code, _, err = rasterloom("versions", "gc", shop.recipe_file, "--older-than", "soon")
    assert code == 2 and "--older-than: got soon, takes an age such as 7d" in err
    assert files(shop) == before


def test_metadata_of_a_commit_that_may_be_under_way_stay(shop):
    """However short the grace: what writes them, `versions tag` say, does not say that it is at work."""
    assert not [item for item in gc.find(shop.corpus, AT_ONCE).items if item.kind == "metadata"]
    place = Path(shop.corpus.store.path(f"{shop.corpus.name}/tables"))
    old = time.time() - 3600
    for path in place.rglob("*.avro"):
        os.utime(path, (old, old))
    found = [item for item in gc.find(shop.corpus, AT_ONCE).items if item.kind == "metadata"]
    assert found and {item.name.split("/")[0] for item in found} == {"metadata"}


@pytest.fixture(scope="module")
def scene(shop):
    """The corpus with what is not Rasterloom's in it, and what jobs that were killed left."""
    if any(ref.name == "v1" for ref in refs(shop.corpus)):
        delete(shop.corpus, "v1")
    store, name = shop.corpus.store, shop.corpus.name
    place = shop.corpus.files("images")[0].name.rpartition("/")[0]
    shop.theirs = [
        f"{name}/staging/NOTES.txt", f"{place}/mine.parquet", f"{name}/tables/images/metadata/mine.avro",
        f"{name}/files/readme.md", "elsewhere/000000-0123456789ab-00000.parquet",
    ]  # fmt: skip
    shop.left = [
        f"{place}/000000-0123456789ab-00000.parquet",
        f"{place.removesuffix('/data')}/shards/.000000-{'0' * 20}.json.{'a' * 32}",
        f"{name}/staging/images/{'f' * 20}/shards/000000-{'0' * 20}.json",
        f"{name}/staging/images/{'f' * 20}/data/000000-0123456789ab-00000.parquet",
        f"{name}/at-work/{'b' * 32}.json",
    ]
    for file in (*shop.theirs, *shop.left):
        store.put(file, b"{}")
    hour_ago = time.time() - 3600
    os.utime(store.path(shop.left[-1]), (hour_ago, hour_ago))
    shop.copy = shop.recipe_file.parent / "copy"
    shutil.copytree(store.path(), shop.copy)
    return shop


def restore(shop):
    shutil.rmtree(shop.corpus.store.path())
    shutil.copytree(shop.copy, shop.corpus.store.path())


def test_what_nothing_reaches_goes_and_all_else_stays(scene):
    before = files(scene)
    found = gc.find(scene.corpus, AT_ONCE)
    assert files(scene) == before, "looking changes nothing"
    gone = gc.collect(scene.corpus, AT_ONCE)
    assert found.snapshots == gone.snapshots and gone.snapshots["selection"] == 1
    after = files(scene)
    assert set(scene.theirs) <= set(after)
    assert not set(scene.left) & set(after)
    planned = {item.name for item in gone.items if item.kind != "metadata"}
    assert {n for n in set(before) - set(after) if "/metadata/" not in n} == planned
    assert any("/staging/selection/" in name for name in planned)
    assert any("/staging/codes/" in name for name in planned)
    assert any("/files/lengths/" in name for name in planned)
    assert not any("/staging/images/" in name for name in planned - set(scene.left))
    scene.after = set(after)
    assert scene.tables() == scene.second
    nodes = lineage.graph(scene.corpus)
    steps = [node.record.step for node in lineage.ancestors(nodes, lineage.find(nodes, "lengths/64"))]
    assert sorted(steps) == sorted(
        ["pairs", "images", "scores", "selection", "text", "codes/64", "tokens/64", "lengths/64"]
    )
    assert gc.find(scene.corpus, AT_ONCE).items == []
    whole(scene)


KILLED = """
import itertools, os, signal, sys
from datetime import timedelta
from pathlib import Path
from rasterloom.pipelines.maintenance import gc
from rasterloom.recipe.loader import load_recipe
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
calls, delete = itertools.count(), Store.delete
def kill(self, name):
    if next(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    delete(self, name)
Store.delete = kill
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.pipelines.maintenance.reachability import Grace
nothing = Grace(timedelta(0), timedelta(0))
gc.collect(Corpus.of(load_recipe(Path(sys.argv[1]))), nothing)
"""


@pytest.mark.parametrize("number", [0, 3, 9, 20])
def test_killed_in_the_middle_it_can_be_run_again(scene, number):
    restore(scene)
    command = [sys.executable, "-c", KILLED, str(scene.recipe_file), str(number)]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert not verify(scene.corpus)[1] and scene.tables() == scene.second
    gc.collect(scene.corpus, AT_ONCE)
    for mark in Path(scene.corpus.store.path(f"{scene.corpus.name}/at-work")).glob("*.json"):
        mark.unlink()  # what says that one is at work counts for two minutes after its death
    mine = {name for name in files(scene) if "/metadata/" not in name}
    assert mine == {name for name in scene.after if "/metadata/" not in name and "/at-work/" not in name}
    if number == 9:
        whole(scene)


def test_a_run_that_goes_back_finds_its_way(scene):
    """What was removed is made again."""
    scene.write().run("--until", "lengths")
    assert scene.tables() == scene.first


def test_beside_a_run_it_touches_nothing_of_it(workshop, undisturbed):
    process = workshop.start("--until", "tokens")
    place = Path(workshop.corpus.store.path(workshop.corpus.name))
    until = time.monotonic() + 300
    while not list(place.glob("at-work/*.json")):
        assert time.monotonic() < until
        time.sleep(0.01)
    times = 0
    while process.poll() is None and time.monotonic() < until:
        gc.collect(workshop.corpus, AT_ONCE)
        times += 1
        time.sleep(0.05)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert times
    assert workshop.tables() == undisturbed.tables()
    assert not verify(workshop.corpus)[1]


def test_what_a_job_at_work_has_published_stays_until_it_is_gone(tmp_path):
    corpus = Corpus("demo", Store(str(tmp_path)))
    published = []
    for place in (f"demo/staging/images/{digit * 20}" for digit in "78"):
        data, mark = f"{place}/data/000000-{'0' * 12}-00000.parquet", f"{place}/shards/000000-{'0' * 20}.json"
        corpus.store.put(data, b"rows")
        corpus.store.put(mark, json.dumps(asdict(Published("000000", {data: 1}, 1, 4, {}, 0.1))).encode())
        published += [data, mark]
    folder = f"demo/files/lengths/64/{'7' * 20}/lengths.parquet"
    corpus.store.put(folder, b"lengths")
    with hold_lease(corpus, "run", ["7" * 20]):
        assert {item.name for item in gc.find(corpus, AT_ONCE).items} == set(published[2:])
        gc.collect(corpus, AT_ONCE)
        left = set(corpus.store.list("demo"))
        assert {*published[:2], folder} <= left and not left & set(published[2:])
    gc.collect(corpus, AT_ONCE)
    assert corpus.store.list("demo") == []


def test_a_run_waits_for_it_and_it_for_a_takedown(undisturbed):
    with hold_lease(undisturbed.corpus, "gc"):
        process = undisturbed.start("--until", "tokens")
        for line in process.stdout:
            if "waiting for its end" in line:
                break
        else:
            pytest.fail("it did not wait")
        assert process.poll() is None
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "7 steps, 0 ran now" in printed
    with (
        hold_lease(undisturbed.corpus, "takedown"),
        pytest.raises(VersionError, match="takedown is under way"),
    ):
        gc.collect(undisturbed.corpus, AT_ONCE)


def test_a_model_stays_unless_it_is_asked_for(corpus_with_models):
    corpus, old, new = corpus_with_models
    kinds = {item.kind for item in gc.find(corpus, AT_ONCE).items}
    assert "models" not in kinds and "folders" not in kinds
    found = gc.find(corpus, AT_ONCE, models=True)
    assert {item.name for item in found.items if item.kind == "models"} == {f"{old}/model/weights"}
    assert {item.name for item in found.items if item.kind == "folders"} == {
        f"{corpus.name}/files/lengths/64/{'3' * 20}/lengths.parquet"
    }
    gc.collect(corpus, AT_ONCE, models=True)
    assert corpus.store.exists(f"{new}/model/weights") and not corpus.store.exists(f"{old}/model/weights")


@pytest.fixture
def corpus_with_models(tmp_path):
    """Two versions of tokens, and a model and an index of each."""
    import pyarrow as pa

    from rasterloom.schema import TOKENS
    from rasterloom.versions.commit import commit
    from rasterloom.versions.record import Record

    corpus = Corpus("demo", Store(str(tmp_path)))
    folders = []
    for tokens, lengths, train in (("1", "3", "5"), ("2", "4", "6")):
        name = f"demo/staging/tokens/64/{tokens * 20}/data/000000-0123456789ab-00000.parquet"
        row = {"target": 64, "bucket": "64x64", "key": "k", "input_ids": [1], "n_tokens": 1}
        corpus.store.write_parquet(name, pa.Table.from_pylist([row], schema=TOKENS))
        record = Record("tokens/64", tokens * 20, "1", {}, {}, rows=1)
        commit(corpus, "tokens", TOKENS, [name], record, partition_by=("target", "bucket"))
        given = {"tokens/64": tokens * 20}
        index = Record("lengths/64", lengths * 20, "1", {}, given)
        model = Record("train/1-64", train * 20, "1", {}, {**given, "lengths/64": lengths * 20})
        for record in (index, model):
            for last in (record.fingerprint, "last"):
                corpus.store.put(f"demo/records/{record.step}/{last}.json", record.to_json())
        corpus.store.write_parquet(
            f"demo/files/lengths/64/{lengths * 20}/lengths.parquet", pa.table({"key": ["k"]})
        )
        folders.append(f"demo/files/train/1-64/{train * 20}")
        corpus.store.put(f"{folders[-1]}/model/weights", b"w")
    return corpus, *folders


def test_what_a_model_saw_is_known_when_its_tokens_are_gone(corpus_with_models):
    corpus, *_ = corpus_with_models
    before = lineage.checkpoints_of(corpus, lineage.graph(corpus), ["k"])
    gc.collect(corpus, AT_ONCE)
    nodes = lineage.graph(corpus)
    assert "1" * 20 not in nodes
    assert lineage.checkpoints_of(corpus, nodes, ["k"]) == before == {"5" * 20: ["k"], "6" * 20: ["k"]}


def test_ages():
    from rasterloom.cli.gc import _age

    assert [_age("", text) for text in ("7d", "12h", "30m", "5s", "0", "2")] == [
        timedelta(days=7), timedelta(hours=12), timedelta(minutes=30), timedelta(seconds=5), NOTHING,
        timedelta(days=2),
    ]  # fmt: skip
