"""Filters, places and neighbours, beside what the items say themselves."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_workspace import WITH_EMBEDDINGS, Item, Workspace, bucket_of, embedding
from PIL import Image

from rasterloom.errors import RecipeError
from rasterloom.schema import SCORES
from rasterloom.serve import index as index_module
from rasterloom.serve.filters import PAGE, Filters, find
from rasterloom.serve.index import Index, opened
from rasterloom.serve.overview import corpora
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus


def keys(index: Index, **parameters: str) -> list[str]:
    """Keys of all pages, one after another."""
    filters = Filters.of(parameters, index)
    found, after = [], None
    while True:
        page = find(index, filters, after)
        found += [row["key"] for row in page.rows]
        after = page.after
        if after is None or filters.near:
            assert len(found) == page.in_all or filters.near
            return found


FILTERS: list[tuple[dict[str, str], Callable[[Item], bool]]] = [
    ({}, lambda i: True),
    ({"text": "DISC number 1"}, lambda i: "disc number 1" in i.caption),
    ({"text": "%"}, lambda i: "%" in i.caption),
    ({"text": "<script>"}, lambda i: "<script>" in i.caption),
    ({"text": "' OR 1=1 --"}, lambda i: False),
    ({"source": "test"}, lambda i: True),
    ({"source": "other"}, lambda i: False),
    ({"reason": "kept"}, lambda i: not i.error and i.reason == "kept"),
    ({"reason": "failed"}, lambda i: bool(i.error)),
    ({"reason": "failed: dns"}, lambda i: i.error == "dns"),
    ({"reason": "rule"}, lambda i: i.reason.startswith("rule: ")),
    ({"reason": "rule: quality < 9"}, lambda i: i.reason == "rule: quality < 9"),
    ({"reason": "duplicate"}, lambda i: bool(i.duplicate_of)),
    ({"min.quality": "5", "max.quality": "7"}, lambda i: i.image is not None and 5 <= i.quality <= 7),
    ({"min.min_side": "97"}, lambda i: i.image is not None and min(i.image.size) >= 97),
    (
        {"passes": "quality < 5 and caption_length > 12"},
        lambda i: i.image is not None and i.quality < 5 and len(i.caption) > 12,
    ),
    ({"fails": "quality < 5"}, lambda i: i.image is not None and i.quality >= 5),
    (
        {"reason": "kept", "min.quality": "8", "text": "disc"},
        lambda i: i.reason == "kept" and not i.error and i.quality >= 8 and "disc" in i.caption,
    ),
]


@pytest.mark.parametrize(("parameters", "passes"), FILTERS, ids=[str(asked)[:50] for asked, _ in FILTERS])
def test_a_filter_finds_what_it_says(index: Index, items: list[Item], parameters, passes) -> None:
    assert sorted(keys(index, **parameters)) == sorted(i.key for i in items if passes(i))


def test_a_bucket_is_one_of_a_target(index: Index, items: list[Item]) -> None:
    offered = {option.value: option.rows for option in index.options["bucket"]}
    kept = [i for i in items if i.image and i.reason == "kept"]
    for target in (64, 128):
        sizes = [bucket_of(i.image.size, target) for i in kept if i.image]
        for width, height in set(sizes):
            name = f"{target}: {width}x{height}"
            found = keys(index, bucket=name)
            assert len(found) == offered[name] == sizes.count((width, height))
            assert set(found) == {i.key for i, s in zip(kept, sizes, strict=True) if s == (width, height)}


def test_a_group_is_what_is_kept_and_its_duplicates(index: Index, items: list[Item]) -> None:
    copy = next(i for i in items if i.duplicate_of)
    assert set(keys(index, group=str(copy.duplicate_of))) == {copy.key, copy.duplicate_of}
    (entry,) = index.sql("SELECT _copies FROM entries WHERE key = ?", copy.duplicate_of)
    assert entry["_copies"] == 1


def test_pages_follow_one_another_in_the_order_of_the_corpus(
    index: Index, items: list[Item], monkeypatch
) -> None:
    monkeypatch.setattr("rasterloom.serve.filters.PAGE", 7)
    assert len(items) > 5 * 7 and len(items) // 2 < PAGE
    assert keys(index) == [i.key for i in items]


def test_neighbours_come_by_the_cosine_of_their_embeddings(index: Index, items: list[Item]) -> None:
    fetched = [i for i in items if i.image]
    vectors = np.array([embedding(i) for i in fetched], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors @ vectors[3]))
    assert keys(index, near=fetched[3].key) == [fetched[n].key for n in order]
    some = keys(index, near=fetched[3].key, reason="kept")
    assert some == [fetched[n].key for n in order if fetched[n].reason == "kept"]


def test_without_embeddings_nothing_is_near(tmp_path: Path, items: list[Item]) -> None:
    made = Workspace(tmp_path)
    made.fill(items[:3], targets=())
    with opened(made.corpus, made.inputs().snapshots) as index:
        assert keys(index, near=items[0].key) == []
        assert index.options["bucket"] == []


def test_a_corpus_without_a_selection_has_what_there_is(workspace: Workspace, items: list[Item]) -> None:
    given = {t: n for t, n in workspace.inputs().snapshots.items() if t in ("pairs", "images")}
    with opened(workspace.corpus, given) as index:
        assert set(keys(index, reason="failed")) == {i.key for i in items if i.error}
        assert keys(index, reason="kept") == [] and len(keys(index)) == len(items)
        assert len(keys(index, passes="min_side > 1")) == sum(i.image is not None for i in items)
    with pytest.raises(RecipeError, match="no images yet"), opened(workspace.corpus, {}):
        pass


def test_scores_may_have_any_name(tmp_path: Path, items: list[Item]) -> None:
    """Such as those of lists by others: LAION's is called similarity."""
    names = ("similarity", "reason", "place", "copies", "source", 'in "quotes"', "SELECT")
    schema = pa.schema([*SCORES, *((name, pa.float64()) for name in names)])
    made = Workspace(tmp_path, score_schema=schema)
    made.fill(items[:9], targets=())
    with opened(made.corpus, made.inputs().snapshots) as index:
        (row, *_) = find(index, Filters()).rows
        assert set(names) <= set(row) and row["_reason"] == "kept" and "_cosine" not in row
        assert index.scores == list(names) and not set(names) & set(index.bounds), "all are null"


@pytest.mark.parametrize("folder", ["plain", "with [odd] * letters?"])
def test_a_place_leads_to_its_image(tmp_path: Path, items: list[Item], folder: str) -> None:
    """In folders that DuckDB would take for a pattern, tables are read through Arrow, as they are on S3."""
    _check_places(Workspace(tmp_path / folder, shard_rows=20, score_schema=WITH_EMBEDDINGS), items)


def test_a_corpus_on_s3_is_served_as_well(tmp_path: Path, items: list[Item], seaweedfs, s3: str) -> None:
    made = Workspace(tmp_path, shard_rows=20, score_schema=WITH_EMBEDDINGS)
    made.corpus = Corpus("scenes", Store(f"{s3}/served"), tuple(sorted(seaweedfs.catalog.items())))
    _check_places(made, items)
    assert corpora(made.corpus) == ["scenes"]


def _check_places(made: Workspace, items: list[Item]) -> None:
    made.fill(items, targets=())
    with opened(made.corpus, made.inputs().snapshots) as index:
        assert len(index.tables.data["images"].files) == 3
        for item in items:
            entry = index.find(item.key)
            assert entry is not None
            found = index.images.stored(entry["_place"])
            if item.image is None:
                assert found is None and index.images.thumbnail(entry["_place"]) is None
                continue
            assert found is not None and found[1] == "image/jpeg"
            with Image.open(io.BytesIO(found[0])) as image:
                assert image.size == item.image.size
                expected = np.asarray(item.image, np.int16)
                assert np.abs(np.asarray(image, np.int16) - expected).mean() < 3
            with Image.open(io.BytesIO(index.images.thumbnail(entry["_place"]) or b"")) as small:
                assert max(small.size) <= 200
        assert keys(index, near=items[0].key)[0] == items[0].key


def test_an_image_is_found_where_it_is_or_elsewhere(index: Index, items: list[Item]) -> None:
    place = index.place_of(items[4].key)
    assert place is not None
    for hint in (str(place), str(place + 1), "x", "99" * 40):
        assert index.place_of(items[4].key, hint) == place
    assert index.place_of("nothing", str(place)) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min.quality": "many"}, "min.quality takes a number, not many"),
        ({"max.quality": "nan"}, "max.quality takes a number"),
        ({"min.caption": "3"}, "caption: no such column of numbers"),
        ({"min.qualty": "3"}, "did you mean quality"),
        ({"passes": "quality >"}, "syntax error"),
        ({"passes": "1; DROP TABLE browse.joined"}, "one SQL expression"),
        ({"fails": "quality in (select quality from scores)"}, "cannot hold a subquery"),
        ({"passes": "read_text('/etc/passwd') = ''"}, "cannot"),
        ({"passes": "caption::int > 3"}, "the rule fails on an image"),
    ],
)
def test_what_cannot_be_asked_is_said(index: Index, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        keys(index, **parameters)
    assert index.sql("SELECT count(*) AS n FROM entries")[0]["n"] == index.rows


def test_a_query_that_takes_too_long_is_given_up(index: Index, monkeypatch) -> None:
    monkeypatch.setattr(index_module, "PATIENCE_S", 0.2)
    with pytest.raises(RecipeError, match=r"no answer in 0\.2 s"):
        index.sql("SELECT count(*) FROM range(100000000000) r(i) WHERE sin(i) > 2")
    assert index.sql("SELECT 1 AS one") == [{"one": 1}]


def test_many_ask_at_once(index: Index, items: list[Item]) -> None:
    found: list[int] = []

    def ask() -> None:
        for _ in range(5):
            found.append(len(keys(index, reason="kept")))
            index.images.thumbnail(index.place_of(items[0].key) or 0)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and len(set(found)) == 1
