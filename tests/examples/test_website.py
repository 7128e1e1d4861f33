"""The quickstart's web site: every photograph, scene and trouble, fetched, ends as expected."""

from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import ErrorClass
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.images.perceptual_hash import distance
from rasterloom.sources.pairs import read_sources

SCENES = 12


@pytest.fixture(scope="module")
def example(quickstart: Callable[[str], ModuleType]) -> Any:
    """The example's modules by name."""
    return SimpleNamespace(**{name: quickstart(name) for name in ("troubles", "website", "server")})


@pytest.fixture(scope="module")
def fetched(example: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Rows of images by list of pairs."""
    folder = tmp_path_factory.mktemp("site")
    rows = {}
    (folder / "files").mkdir()
    with example.server.serve(folder) as port:
        example.website.build_site(folder, SCENES, port)
        patient = Fetch(deadline_s=60, allow_hosts=(f"127.0.0.1:{port}",))
        hasty = patient.model_copy(update={"deadline_s": 0.5, "retries": 0, "robots": False})
        for name in ("photos", "scenes", "troubles"):
            source = Source(path=str(folder / f"pairs-{name}.parquet"), caption="text")
            pairs, counts = read_sources([source])
            assert counts["repeated"] == 0
            drips = [(url or "").endswith("/drip") for url in pairs["url"].to_pylist()]
            others = [not drip for drip in drips]
            fast = iter(fetch_shard(pairs.filter(others), patient, shard=0).to_pylist())
            slow = iter(fetch_shard(pairs.filter(drips), hasty, shard=0).to_pylist())
            rows[name] = [next(slow if drip else fast) for drip in drips]
    return rows


def test_every_photograph_and_scene_is_fetched(fetched: dict[str, list[dict[str, Any]]]) -> None:
    assert len(fetched["photos"]) == 20
    assert len(fetched["scenes"]) == SCENES
    assert {row["error"] for name in ("photos", "scenes") for row in fetched[name]} == {None}
    formats = Counter(row["original_format"] for row in fetched["scenes"])
    assert formats == {"jpeg": 4, "png": 4, "webp": 4}


def test_every_trouble_ends_as_expected(fetched: dict[str, list[dict[str, Any]]], example: Any) -> None:
    troubles = example.troubles
    assert len(fetched["troubles"]) == len(troubles.TROUBLES)
    for (name, trouble), row in zip(troubles.TROUBLES.items(), fetched["troubles"], strict=True):
        assert row["caption"] == trouble.caption
        fetches = trouble.outcome in (troubles.KEPT, troubles.DUPLICATE, troubles.RULE)
        assert (name, row["error"]) == (name, None if fetches else trouble.outcome), row["detail"]
        assert bool(row["detail"]) == (row["error"] is not None)
        if name == "one-pixel.png":
            assert (row["width"], row["height"]) == (1, 1)


def test_outcomes_are_classes_that_there_are(example: Any) -> None:
    troubles = example.troubles
    known = {troubles.KEPT, troubles.DUPLICATE, troubles.RULE, *ErrorClass}
    assert {trouble.outcome for trouble in troubles.TROUBLES.values()} <= known
    captions = [trouble.caption for trouble in troubles.TROUBLES.values()]
    assert len(set(captions)) == len(captions)


def test_duplicates_are_near_a_photograph_and_the_kept_are_not(
    fetched: dict[str, list[dict[str, Any]]], example: Any
) -> None:
    photos = [row["phash"] for row in fetched["photos"]]
    for trouble, row in zip(example.troubles.TROUBLES.values(), fetched["troubles"], strict=True):
        nearest = min(distance(row["phash"], photo) for photo in photos) if row["phash"] else None
        if trouble.outcome == example.troubles.DUPLICATE:
            assert nearest is not None and nearest <= 4
        elif trouble.outcome == example.troubles.KEPT:
            assert nearest is not None and nearest > 4


def test_rotated_image_comes_upright(fetched: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = (row for row in fetched["troubles"] if (row["url"] or "").endswith("/rotated.jpg"))
    assert row["width"] > row["height"]


def test_photographs_are_those_that_ship_with_scikit_image(example: Any) -> None:
    folder = example.troubles.PHOTOS
    graphics = {
        "chessboard_GRAY.png", "chessboard_RGB.png", "color.png", "horse.png", "logo.png", "phantom.png",
        "multipage.tif", "multipage_rgb.tif", "no_time_for_that_tiny.gif",
    }  # fmt: skip
    pictures = {p.name for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".tif", ".gif")}
    assert pictures - graphics == set(example.website.CAPTIONS)


def test_same_arguments_give_the_same_site(example: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        example.website.build_site(tmp_path / name, 3, 8765)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 30
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    table = pq.read_table(tmp_path / "one" / "pairs-scenes.parquet")
    assert table.column_names == ["url", "text", "license"]
    assert table["url"][1].as_py() == "http://127.0.0.1:8765/files/scenes/00001.png"


def test_bomb_is_small_and_declares_much(example: Any) -> None:
    data = example.troubles.bomb()
    assert len(data) < 1_000_000
    side = example.troubles.BOMB_SIDE
    assert Image.open(BytesIO(data), formats=["PNG"]).size == (side, side) == (50_000, 50_000)
