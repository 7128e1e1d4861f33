"""Rows that share an image are held out together, and stay where they are when a corpus grows."""

import hashlib
import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.pipelines.corpus.image_groups import NO_GROUPS, connected, groups_of_tokens, read_groups
from rasterloom.pipelines.workflow import Workflow
from rasterloom.schema import IMAGES, SELECTION, pair_key
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.train.data.collate import heldout_draw
from rasterloom.versions.record import Record


def sha(image):
    return None if image is None else hashlib.sha256(image.encode()).hexdigest()


@pytest.fixture
def grouped(tmp_path):
    """A function from rows (name, images, name of the row kept instead) to each kept row's identity."""

    def group(rows, files=2):
        store = Store(str(tmp_path))
        images, selection = [], []
        for name, of_row, instead in rows:
            main, *more = of_row or [None]
            more = [{"sha256": sha(image), "image": b""} for image in more]
            images.append({"key": pair_key(name, None), "sha256": sha(main), "more": more or None})
            same = {"kept": instead is None, "duplicate_of": instead and pair_key(instead, None)}
            selection.append({"key": pair_key(name, None), **same})
        names = {"images": [], "selection": []}
        for number in range(files):
            for table, schema, records in (("images", IMAGES, images), ("selection", SELECTION, selection)):
                file = f"{table}-{number}.parquet"
                store.write_parquet(
                    file, pa.Table.from_pylist(records[number::files], schema), row_group_size=3
                )
                names[table].append(DataFile(file, 0))
        groups = read_groups(store, names["images"], names["selection"])
        kept = [name for name, _, instead in rows if instead is None]
        return dict(zip(kept, groups.of([pair_key(name, None) for name in kept]), strict=True))

    return group


def plain(*pairs):
    return [(name, [image], None) for name, image in pairs]


def test_rows_of_an_image_are_one_group(grouped):
    found = grouped(plain(("caption 1", "a"), ("question", "a"), ("caption 2", "a"), ("other", "b")))
    assert found["caption 1"] == found["caption 2"] == found["question"] == sha("a")[:16]
    assert found["other"] == sha("b")[:16]


def test_images_of_one_row_are_connected_through_rows(grouped):
    rows = [("edit", ["a", "b"], None), ("views", ["b", "c", "d"], None), *plain(("p", "d"), ("q", "e"))]
    found = grouped(rows)
    assert found["edit"] == found["views"] == found["p"] == min(map(sha, "abcd"))[:16]
    assert found["q"] == sha("e")[:16]


def test_a_duplicate_counts_as_the_image_kept_instead(grouped):
    """A question about the file that was dropped as a near duplicate is a question about the kept one."""
    rows = [("first", ["a"], None), ("again", ["a2"], "first"), ("question", ["a2"], None)]
    found = grouped([*rows, ("alone", ["c"], None)])
    assert found["first"] == found["question"] != found["alone"]
    # Duplicates that no kept row shows decide nothing, so the split stays when more of them are found.
    assert grouped(rows[:1])["first"] == grouped(rows[:2])["first"] == sha("a")[:16]


def test_rows_without_a_known_image_go_by_their_key(grouped):
    found = grouped([("text", [], None), ("second only", [None, "b"], None), *plain(("p", "b"))])
    assert found["text"] == pair_key("text", None)
    assert found["second only"] == found["p"] == sha("b")[:16]
    assert grouped([]) == {}
    assert NO_GROUPS.of(["x", "y"]) == ["x", "y"]


def test_no_image_is_both_held_out_and_trained_on(grouped):
    rng = random.Random(1)
    rows = [(f"row {n}", [f"i{rng.randrange(400)}"], None) for n in range(1500)]
    rows += [(f"edit {n}", [f"e{rng.randrange(300)}", f"e{rng.randrange(300)}"], None) for n in range(60)]
    found = grouped(rows)
    sides = defaultdict(set)
    for name, of_row, _ in rows:
        for image in of_row:
            sides[image].add(heldout_draw(found[name]) < 0.1)
    assert all(len(side) == 1 for side in sides.values())
    held = np.mean([True in side for side in sides.values()])
    assert abs(held - 0.1) < 4.5 * np.sqrt(0.1 * 0.9 / len(set(found.values())))


def test_rows_keep_their_side_when_a_corpus_grows(grouped):
    rng = random.Random(2)
    rows = [(f"row {n}", [f"i{n % 300}"], None) for n in range(600)]
    before = grouped(rows)
    more = [(f"new {n}", [f"i{rng.randrange(600)}"], None) for n in range(400)]
    after = grouped([*more, *rows], files=3)
    assert {name: after[name] for name in before} == before


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_connected_nodes_are_those_of_a_plain_search(nodes, edges):
    edges = [(a % nodes, b % nodes) for a, b in edges]
    smallest = list(range(nodes))
    for _ in range(nodes):
        for a, b in edges:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    a, b = (np.array([edge[i] for edge in edges], np.int64) for i in (0, 1))
    assert connected(nodes, a, b).tolist() == smallest


def test_a_long_chain_is_connected_in_few_rounds():
    order = np.random.default_rng(0).permutation(200_000)
    assert (connected(200_000, order[:-1], order[1:]) == 0).all()


def test_the_images_of_tokens_are_found(undisturbed):
    """Those that they were made from, also where the recipe reads the tokens as a version."""
    sha = {row["key"]: row["sha256"] for row in undisturbed.rows("images") if row["status"] == "ok"}
    keys = [row["key"] for row in undisturbed.rows("tokens")]
    assert len(keys) > 10
    lengths = Workflow(undisturbed.recipe).step("lengths/64")
    snapshot = undisturbed.corpus.snapshot_id("tokens")
    version = undisturbed.recipe.model_copy(update={"corpus": f"{undisturbed.corpus.name}@{snapshot}"})
    assert Workflow(version).step("lengths/64").fingerprint == lengths.fingerprint
    for recipe in (undisturbed.recipe, version):
        workflow = Workflow(recipe)
        record = workflow.status(workflow.step("tokens/64")).record
        found = groups_of_tokens(workflow.corpus, record).of(keys)
        assert found == [sha[key][:16] for key in keys]
    imported = Record("tokens/64", "x", "2", {"target": 64}, {"codes/64": "gone"})
    assert groups_of_tokens(undisturbed.corpus, imported) == NO_GROUPS
