"""Files of the quickstart's web site, and its lists of pairs."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from scenes import VARIED, Layout, draw_scene
from troubles import PHOTOS, SERVED, TROUBLES

# Every photograph in the scikit-image wheel: file, caption, licence as scikit-image's documentation has it.
_PUBLIC, _UNSTATED = "public domain", "distributed with scikit-image (BSD-3-Clause)"
CAPTIONS = {
    "astronaut.png": (
        "a smiling woman with short hair in an orange space suit, a flag and a shuttle behind",
        _PUBLIC,
    ),
    "brick.png": ("a wall of narrow bricks with light joints, in black and white", "CC0"),
    "camera.png": ("a man in a dark coat looking through a camera on a tripod, in black and white", "CC0"),
    "cell.png": ("a bright round cell floating in grey liquid, through a microscope", "CC0"),
    "chelsea.png": ("the face of a ginger tabby cat with green eyes", "CC0"),
    "clock_motion.png": ("a clock on a grey wall, blurred by the moving camera", _PUBLIC),
    "coffee.png": ("a cup of espresso on a red saucer with a spoon, on a wooden table", "CC0"),
    "coins.png": (
        "four rows of ancient coins on a dark ground, in black and white",
        "no known copyright restrictions",
    ),
    "grass.png": ("short grass and dry stalks from above, in black and white", "CC0"),
    "gravel.png": ("gravel of small grey stones from above", "CC0"),
    "hubble_deep_field.jpg": ("hundreds of distant galaxies in many colours in black space", _PUBLIC),
    "ihc.png": (
        "brown glands and blue cell nuclei in stained tissue, through a microscope",
        "no known copyright restrictions",
    ),
    "microaneurysms.png": ("thin blood vessels and two dark spots on a retina, in grey", "CC0"),
    "moon.png": ("craters and hills on the grey surface of the moon", _UNSTATED),
    "motorcycle_left.png": (
        "a red motorcycle in a garage with shelves and boxes, seen from the left",
        "Middlebury Stereo 2014",
    ),
    "motorcycle_right.png": (
        "a red motorcycle in a garage with shelves and boxes, seen from the right",
        "Middlebury Stereo 2014",
    ),
    "page.png": ("a printed page about the segmentation of coins", _UNSTATED),
    "retina.jpg": ("the red retina of an eye with branching blood vessels", "CC0"),
    "rocket.jpg": ("a white rocket on its launch pad between two towers at dusk", _PUBLIC),
    "text.png": ("handwritten formulas on lined paper, seen at an angle", _PUBLIC),
}
SCENE_FORMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("jpg", {"quality": 98, "subsampling": 0}),
    ("png", {}),
    ("webp", {"lossless": True}),
)
SCENE_LICENCE = "CC0"


def build_site(folder: Path, scenes: int, port: int, layout: Layout = VARIED) -> Path:
    """Write the site that `server.py` serves, and return its folder.

    Below ``folder``: ``files/``, and ``pairs-photos.parquet``, ``pairs-scenes.parquet`` and
    ``pairs-troubles.parquet`` with the columns url, text and license. The same arguments give the same
    files. FileNotFoundError if scikit-image has not the photographs that are expected in it.
    """
    site = f"http://127.0.0.1:{port}"
    folder.mkdir(parents=True, exist_ok=True)
    _write_pairs(folder / "pairs-photos.parquet", _photos(folder, site))
    _write_pairs(folder / "pairs-scenes.parquet", _scenes(folder, site, scenes, layout))
    _write_pairs(folder / "pairs-troubles.parquet", _troubles(folder, site))
    return folder


Pair = tuple[str | None, str | None, str]  # url, text, license


def _photos(folder: Path, site: str) -> list[Pair]:
    for name in CAPTIONS:
        _write(folder / "files/photos" / name, (PHOTOS / name).read_bytes())
    return [(f"{site}/files/photos/{name}", text, licence) for name, (text, licence) in CAPTIONS.items()]


def _scenes(folder: Path, site: str, count: int, layout: Layout) -> list[Pair]:
    pairs: list[Pair] = []
    (folder / "files/scenes").mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        suffix, options = SCENE_FORMS[seed % len(SCENE_FORMS)]
        scene = draw_scene(seed, layout=layout)
        name = f"{seed:05d}.{suffix}"
        scene.image.save(folder / "files/scenes" / name, **options)
        pairs.append((f"{site}/files/scenes/{name}", scene.caption, SCENE_LICENCE))
    return pairs


def _troubles(folder: Path, site: str) -> list[Pair]:
    pairs: list[Pair] = []
    for name, trouble in TROUBLES.items():
        url = trouble.url
        if trouble.make is not None:
            _write(folder / "files/troubles" / name, trouble.make())
            url = "{site}/files/troubles/" + name
        pairs.append((url.replace("{site}", site) if url else url, trouble.caption, "none"))
    for name, make in SERVED.items():
        _write(folder / "served" / name, make())
    return pairs


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_pairs(path: Path, pairs: list[Pair]) -> None:
    columns = [pa.array(column, pa.string()) for column in zip(*pairs, strict=True)] or [[], [], []]
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.table(columns, names=["url", "text", "license"]), temporary)
    os.replace(temporary, path)
