"""Pictures that were taken down go from every table, and nothing brings them back."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from rasterloom.errors import VersionError
from rasterloom.pipelines.maintenance import takedown
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace import tombstones as tombstone_files
from rasterloom.pipelines.workspace.tombstones import takedowns, tombstones
from rasterloom.schema import IMAGES
from rasterloom.versions import lineage
from rasterloom.versions.corpus import TABLES
from rasterloom.versions.history import made
from rasterloom.versions.record import Record
from rasterloom.versions.refs import tag
from rasterloom.versions.verify import verify


def lone(shop):
    """Keys of kept pairs that nothing is a duplicate of, in the order of the tokens."""
    tables = shop.tables()
    doubled = {row["duplicate_of"] for row in tables["selection"]}
    return [row["key"] for row in tables["tokens"] if row["key"] not in doubled]


def less(tables, keys):
    return {name: [row for row in rows if row["key"] not in keys] for name, rows in tables.items()}


def wordless(tables):
    """Tables without what of the tokens depends on the text vocabulary: that is made of what is kept."""
    of_text = ("input_ids", "loss_spans", "n_tokens")
    tokens = [{k: v for k, v in row.items() if k not in of_text} for row in tables["tokens"]]
    return {**tables, "tokens": tokens}


@pytest.fixture(scope="module")
def shop(tmp_path_factory, workshop_at):
    """A corpus whose version v1 is as it was, and from which some were taken down."""
    shop = workshop_at(tmp_path_factory.mktemp("takedown") / "recipe.yaml").write()
    shop.run("--until", "lengths")
    shop.before = shop.tables()
    images = {row["key"]: row for row in shop.before["images"]}
    keys = lone(shop)[:4]
    shop.given = [keys[0], images[keys[1]]["url"], images[keys[2]]["sha256"], images[keys[3]]["phash"]]
    shop.keys = keys
    return shop


@pytest.fixture(scope="module")
def done(shop):
    tag(shop.corpus, "v1")
    shop.outcome = takedown.take_down(shop.corpus, shop.given, why="asked for")
    return shop


def test_a_dry_run_counts_and_changes_nothing(shop):
    found = takedown.take_down(shop.corpus, shop.given, dry_run=True)
    assert set(shop.keys) <= set(found.keys) and found.number == 0
    assert found.rows.keys() == set(TABLES) - {"captions"}  # which the recipe does not ask for
    assert shop.tables() == shop.before
    assert takedowns(shop.corpus.store, shop.corpus.name) == []


def test_the_tables_are_those_of_before_without_the_rows(done):
    assert set(done.keys) <= set(done.outcome.keys)
    assert done.tables() == less(done.before, done.outcome.keys)
    assert done.outcome.rows == {
        name: sum(row["key"] in done.outcome.keys for row in rows)
        for name, rows in done.before.items()
        if name != "captions"
    }
    assert done.outcome.still == ["v1"]


def test_a_second_time_it_changes_nothing(done):
    before = sorted((v.table, v.snapshot_id) for v in made(done.corpus))
    found = takedown.take_down(done.corpus, done.given)
    assert (found.number, found.rows) == (0, {}) and set(done.keys) <= set(found.keys)
    assert sorted((v.table, v.snapshot_id) for v in made(done.corpus)) == before
    assert len(takedowns(done.corpus.store, done.corpus.name)) == 1


def test_a_tag_that_holds_them_is_not_run_on(done):
    text = done.recipe_file.read_text()
    done.recipe_file.write_text(text.replace("corpus: little", "corpus: little@v1"))
    process = done.start("--until", "tokens")
    printed, _ = process.communicate(timeout=300)
    done.recipe_file.write_text(text)
    assert process.returncode == 2 and "were taken down since" in printed, printed


def test_versions_say_so_and_stand(done):
    (first,) = takedowns(done.corpus.store, done.corpus.name)
    assert first.why == "asked for" and first.keys == done.outcome.keys
    standing, problems = verify(done.corpus, deep=True)
    assert not problems and all(s.good_rows == s.rows for s in standing)
    for version in made(done.corpus):
        assert version.record.taken_down == 1
        assert version.record.rows == len(done.rows(version.table))
    by_table = {v.table: v.record.counts for v in made(done.corpus)}
    assert by_table["pairs"]["taken_down"] == len(done.outcome.keys)
    assert sum(by_table["images"].values()) == len(done.rows("images"))
    assert sum(by_table["selection"].values()) == len(done.rows("selection"))
    assert by_table["tokens"]["sequences"] == len(done.rows("tokens"))


def test_nothing_runs_again_but_what_shows_single_rows(done):
    printed = done.run("--until", "lengths")
    assert "8 steps, 1 ran now" in printed and "lengths/64  takedown 1 took rows out of tokens/64" in printed
    assert "8 steps, 0 ran now" in done.run("--until", "lengths")


def test_the_tokens_that_held_them_are_still_known(done):
    nodes = lineage.graph(done.corpus)
    assert len(lineage.holding(done.corpus, nodes, done.keys)) == 1


def test_an_old_version_is_not_handed_on(done, tmp_path, rasterloom):
    code, _, err = rasterloom("versions", "export", done.recipe_file, tmp_path / "out", "--at", "v1")
    assert code == 2 and "were taken down since" in err and "versions branch" in err
    code, out, err = rasterloom("versions", "branch", done.recipe_file, "again", "--at", "v1")
    assert code == 0 and "Rows taken down since stay out" in out
    code, _, err = rasterloom("versions", "export", done.recipe_file, tmp_path / "out", "--at", "again")
    assert code == 0, err


def test_rolling_back_does_not_bring_them_back(done, rasterloom):
    after = done.tables()
    code, out, err = rasterloom("versions", "rollback", done.recipe_file, "v1")
    assert code == 0 and "Rows taken down since stay out" in out, err
    assert done.tables() == after


def test_fetched_anew_they_stay_out(done):
    """The key and the URL at the list of pairs, the hashes where the picture comes from elsewhere."""
    text = done.recipe_file.read_text()
    done.recipe_file.write_text(text.replace("max_side: 256", "max_side: 192"))
    done.run("--until", "tokens")
    rows = done.tables()
    for name in TABLES:
        assert not {row["key"] for row in rows[name]} & set(done.keys)
    assert done.recipe.fetch.max_side == 192 and len(rows["images"]) == len(rows["pairs"])


def test_other_targets_sources_and_retries_do_not_bring_them_back(done):
    place = done.recipe_file.parent / "more.csv"
    urls = [row["url"] for row in done.before["images"] if row["key"] in done.keys[1:]]
    place.write_text("url,text\n" + "".join(f"{url},told otherwise\n" for url in urls))
    text = done.recipe_file.read_text().replace("targets: [64]", "targets: [64, 96]")
    text = text.replace("max_side: 192", "max_side: 256")  # of the size that the perceptual hash was given at
    more = f"sources:\n  - {{path: {place}, caption: text}}\n"
    done.recipe_file.write_text(text.replace("sources:\n", more))
    done.run("--until", "tokens")
    done.run("--until", "tokens", "--retry", "timeout,http_5xx")
    images = {row["key"]: row for row in done.rows("images")}
    told = [row for row in images.values() if row["caption"] == "told otherwise"]
    # Of those that were taken down by URL the pair is gone; of those by what the picture is, the picture.
    assert {row["error"] for row in told} == {"taken_down"} and 0 < len(told) < len(urls)
    assert all(row["image"] is None and row["sha256"] is None for row in told)
    tokens = done.rows("tokens")
    assert {row["target"] for row in tokens} == {64, 96}
    assert not {row["key"] for row in tokens} & {*done.keys, *(row["key"] for row in told)}
    assert sorted(images) == sorted(row["key"] for row in done.rows("pairs"))


def test_an_image_from_elsewhere_is_a_failure(workshop, tmp_path):
    """Its SHA-256 is on the list before its pair is: the pair keeps a row, without picture."""
    workshop.run("--until", "pairs")
    first = takedown.take_down(workshop.corpus, ["0" * 64])
    assert first.keys == [] and first.rows == {}
    workshop.run("--until", "images")
    row = next(row for row in workshop.rows("images") if row["status"] == "ok")
    takedown.take_down(workshop.corpus, [row["sha256"]])
    known = tombstones(workshop.corpus.store, workshop.corpus.name)
    assert row["key"] in known.keys.to_pylist() and known.number == 2

    other = pa.Table.from_pylist([{**row, "key": "a" * 32, "shard": 0}], schema=IMAGES)
    left, change = known.without(other, "images")
    (blank,) = left.to_pylist()
    assert (blank["status"], blank["error"], blank["image"]) == ("failed", "taken_down", None)
    assert (blank["key"], blank["url"], blank["sha256"]) == ("a" * 32, row["url"], None)
    assert change == {"ok": -1, "taken_down": 1}


def wait_for_shards(shop, step, number):
    place = Path(shop.corpus.store.path(f"{shop.corpus.name}/staging/{step}"))
    until = time.monotonic() + 300
    while len(list(place.glob("*/shards/*.json"))) < number:
        assert time.monotonic() < until
        time.sleep(0.01)


def kill_in_images(workshop):
    """Kill a run that has made some images; say whether none of them is in a version."""
    process = workshop.anew().start("--until", "tokens")
    wait_for_shards(workshop, "images", 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()
    return not workshop.corpus.files("images")


def test_a_run_that_was_killed_goes_on_without_them(workshop, undisturbed):
    assert any(kill_in_images(workshop) for _ in range(10))  # on a busy machine the kill may come late
    keys = lone(undisturbed)
    images = {row["key"]: row for row in undisturbed.rows("images")}
    given = [images[keys[0]]["sha256"], images[keys[len(keys) // 2]]["url"], keys[-1]]
    found = takedown.take_down(workshop.corpus, given)
    workshop.run("--until", "tokens")
    mine = workshop.tables()
    # A picture that was not fetched yet is found by its hash only then: its pair keeps a row.
    late = {row["key"] for row in mine["images"] if row["error"] == "taken_down"}
    assert wordless(less(mine, late)) == wordless(less(undisturbed.tables(), {*found.keys, *late}))


def test_a_run_that_is_under_way_ends_without_them(workshop, undisturbed):
    process = workshop.start("--until", "tokens")
    wait_for_shards(workshop, "images", 2)
    keys = lone(undisturbed)
    given = [keys[0], keys[len(keys) // 2], keys[-1]]
    found = takedown.take_down(workshop.corpus, given)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert found.keys == sorted(given)
    assert wordless(workshop.tables()) == wordless(less(undisturbed.tables(), given))
    assert "7 steps, 0 ran now" in workshop.run("--until", "tokens")


def test_between_publish_and_commit_nothing_slips_through(workshop, undisturbed, monkeypatch):
    """A takedown that comes when all shards are published and no version is made of them yet."""
    from rich.console import Console

    from rasterloom.pipelines import run as run_module
    from rasterloom.pipelines.execution import runner

    keys = lone(undisturbed)
    commit, given = runner.commit, dict(zip(("images", "selection", "tokens"), keys, strict=False))

    def late(corpus, name, *arguments, **named):
        if name in given:
            takedown.take_down(corpus, [given[name]])
        return commit(corpus, name, *arguments, **named)

    monkeypatch.setattr(runner, "commit", late)
    run_module.run(Workflow(workshop.recipe), "tokens", Progress(Console(quiet=True)))
    assert wordless(workshop.tables()) == wordless(less(undisturbed.tables(), given.values()))
    assert len(given) == 3 == len(takedowns(workshop.corpus.store, workshop.corpus.name))
    assert "7 steps, 0 ran now" in workshop.run("--until", "tokens")


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from rasterloom.pipelines.maintenance import apply_takedowns, takedown
from rasterloom.pipelines.workspace import staging
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus
calls = itertools.count()
def killing(work):
    def run(*arguments):
        if next(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments)
    return run
apply_takedowns.replace_files = killing(apply_takedowns.replace_files)
staging.publish_anew = killing(staging.publish_anew)
takedown.take_down(Corpus.of(load_recipe(Path(sys.argv[1]))), sys.argv[3:])
"""


@pytest.fixture(scope="module")
def again(tmp_path_factory, workshop_at):
    """A corpus, and a copy of its workspace to go back to."""
    shop = workshop_at(tmp_path_factory.mktemp("killed") / "recipe.yaml").write()
    shop.run("--until", "tokens")
    shop.before = shop.tables()
    shop.copy = shop.recipe_file.parent / "copy"
    shutil.copytree(shop.corpus.store.path(), shop.copy)
    return shop


def restore(shop):
    shutil.rmtree(shop.corpus.store.path())
    shutil.copytree(shop.copy, shop.corpus.store.path())
    tombstone_files._read.cache_clear()  # a takedown's file never changes otherwise


@pytest.mark.parametrize("number", [0, 2, 6, 8])
def test_killed_in_the_middle_it_is_finished_by_a_run_or_by_another(again, number):
    restore(again)
    key = lone(again)[0]
    command = [sys.executable, "-c", KILLED, str(again.recipe_file), str(number), key]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert less(again.tables(), [key]) == less(again.before, [key]), "whole, wherever it was cut off"
    assert again.tables() != less(again.before, [key])
    with pytest.raises(VersionError, match="takedown 1 of little was cut off"):
        takedown.refuse_held(again.corpus)
    if number == 6:
        printed = again.run("--until", "tokens")
        assert "is out now" in printed and "7 steps, 0 ran now" in printed
    else:
        assert takedown.take_down(again.corpus, [key]).number == 0
    assert again.tables() == less(again.before, [key])
    assert len(takedowns(again.corpus.store, again.corpus.name)) == 1
    takedown.refuse_held(again.corpus)
    assert not verify(again.corpus)[1]


def test_all_of_a_corpus_can_go(again):
    restore(again)
    keys = [row["key"] for row in again.before["pairs"]]
    found = takedown.take_down(again.corpus, keys)
    assert found.rows == {name: len(rows) for name, rows in again.before.items() if name != "captions"}
    assert all(rows == [] for rows in again.tables().values())
    assert not verify(again.corpus)[1]


def test_hosts_prefixes_and_hashes_find_their_rows(undisturbed):
    pairs, images = undisturbed.rows("pairs"), undisturbed.rows("images")
    port = undisturbed.site[1]
    row = next(row for row in images if row["status"] == "ok")
    moved = next(row for row in images if row["final_url"] and row["final_url"] != row["url"])
    photos = f"http://127.0.0.1:{port}/files/photos/"

    def keys(*given):
        return set(takedown.take_down(undisturbed.corpus, given, dry_run=True).keys)

    def among(rows, column, value):
        return {r["key"] for r in rows if (r[column] or "").startswith(value)}

    assert keys(f"{photos}*") == among(pairs, "url", photos) != set()
    assert keys("127.0.0.1") == {
        r["key"] for r in pairs if r["url"] and r["url"].split("/")[2:3] == [f"127.0.0.1:{port}"]
    } | {r["key"] for r in images if "//127.0.0.1:" in (r["final_url"] or r["url"] or "")}
    assert keys(row["sha256"].upper()) == among(images, "sha256", row["sha256"])
    assert keys(row["phash"]) == among(images, "phash", row["phash"])
    other = f"{int(row['phash'], 16) ^ 0b1001:016X}"
    near = {
        r["key"] for r in images if r["phash"] and (int(r["phash"], 16) ^ int(other, 16)).bit_count() <= 2
    }
    assert row["key"] in keys(f"{other}~2") == near and row["key"] not in keys(f"{other}~1")
    assert moved["key"] in keys(moved["final_url"]), "the address that it really came from"
    assert keys("https" + row["url"].removeprefix("http").replace(f":{port}", "")) == set()
    assert keys("0" * 64, "f" * 32) == {"f" * 32}, "what is not there yet can be kept out"


def test_checkpoints_that_saw_them_are_named_also_of_earlier_tokens(again):
    restore(again)
    (tokens,) = (v.record for v in made(again.corpus) if v.table == "tokens")
    for stage, given in (("1-64", {"tokens/64": tokens.fingerprint}), ("2-96", {"tokens/96": "f" * 20})):
        record = Record(f"train/{stage}", stage[0] * 20, "1", {}, given)
        again.corpus.store.put(
            f"{again.corpus.name}/records/{record.step}/{record.fingerprint}.json", record.to_json()
        )
    keys = lone(again)
    again.write(keep="min_side >= 100").run("--until", "tokens")
    still = [row["key"] for row in again.rows("tokens")]
    gone = next(key for key in keys if key not in still)
    found = takedown.take_down(again.corpus, [gone])
    assert found.checkpoints == ["train/1-64@" + "1" * 20], "tokens of an earlier version"
    assert found.rows.keys() == {"pairs", "images", "scores", "selection"}
    again.write().run("--until", "tokens")
    assert wordless(again.tables()) == wordless(less(again.before, [gone])), "as it was, but for what is gone"
    (first,) = takedowns(again.corpus.store, again.corpus.name)
    assert first.checkpoints == found.checkpoints


@pytest.mark.parametrize("entry", ["", "# only this", "not a thing", "12345"])
def test_what_is_nothing_is_said(undisturbed, entry):
    with pytest.raises(VersionError, match=r"nothing to take down|is no key"):
        takedown.take_down(undisturbed.corpus, [entry])


def test_the_command_reads_lists_and_shows_what_there_was(undisturbed, rasterloom, tmp_path):
    key = lone(undisturbed)[0]
    path = tmp_path / "list.txt"
    path.write_text(f"# from a letter\n{key}\n")
    recipe = undisturbed.recipe_file
    code, out, err = rasterloom("versions", "takedown", recipe, path, "--dry-run")
    assert code == 0 and "1 pairs; rows that would go: pairs 1, images 1" in out, err
    code, out, _ = rasterloom("versions", "takedown", recipe)
    assert code == 0 and "Nothing was taken down." in out
    code, _, err = rasterloom("versions", "takedown", recipe, tmp_path / "missing.txt")
    assert code == 2 and "there is no file" in err
