"""A corpus out of sources that bring their images, run as a user runs it."""

import io
import shutil
import tarfile
from collections import Counter

import duckdb
import numpy as np
import pytest
from PIL import Image

from rasterloom.pipelines.inspection.failures import failures
from rasterloom.pipelines.workflow import Workflow
from rasterloom.schema import pair_key

RECIPE = """
corpus: local
workspace: {work}
sources:
  - {{path: {data}/photos, licence: CC0}}
  - {{path: "{data}/tars/*.tar", weight: 2}}
fetch: {{shard_rows: 4}}
score: [flatness]
tokenize: {{targets: [64], text_vocab: 300}}
run: {{cpus: 2}}
"""


def picture(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 80), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    (folder / "tars").mkdir()
    for number in range(6):
        (folder / "photos" / f"{number}.png").write_bytes(picture(number))
        if number:
            (folder / "photos" / f"{number}.txt").write_text(f"photo {number}")
    with tarfile.open(folder / "tars" / "0.tar", "w") as tar:
        for number in range(6, 10):
            for suffix, content in (("png", picture(number)), ("txt", b"from a tar %d" % number)):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with open(folder / "tars" / "0.tar", "rb") as tar:
        (folder / "tars" / "1.tar").write_bytes(tar.read(700))
    return folder


def test_from_files_to_images_and_on_when_they_move(workshop, data, tmp_path):
    def write(where):
        workshop.recipe_file.write_text(RECIPE.format(work=tmp_path / "work", data=where))

    write(data)
    printed = workshop.run("--until", "images")
    assert "12 rows: pairs 12, read 12, repeated 0" in printed
    images = {row["key"]: row for row in workshop.rows("images")}
    # Of the second tar there is the start of a picture, without its caption, and that the tar is cut.
    assert Counter(row["error"] for row in images.values()) == {None: 9, "bad_caption": 2, "bad_row": 1}
    assert images[pair_key(None, "photo 3", ("photos", "3.png"))]["width"] == 80
    pairs = workshop.rows("pairs")
    assert Counter((row["licence"], row["weight"]) for row in pairs) == {("CC0", 1.0): 6, (None, 2.0): 6}
    assert len(failures(workshop.recipe)) == 3

    moved = tmp_path / "elsewhere"
    shutil.move(data, moved)
    write(moved)
    assert [p.step.name for p in Workflow(workshop.recipe).plan("images") if p.runs] == []
    workshop.recipe_file.write_text(
        workshop.recipe_file.read_text().replace("shard_rows: 4", "shard_rows: 5")
    )
    workshop.run("--until", "images")  # read where they lie now
    assert {row["key"]: row["sha256"] for row in workshop.rows("images")} == {
        key: row["sha256"] for key, row in images.items()
    }
    (moved / "photos" / "1.txt").write_text("another caption")
    reasons = {p.step.name: p.status.reason for p in Workflow(workshop.recipe).plan("images") if p.runs}
    assert "content" in reasons["pairs"] and reasons["images"] == "input changed: pairs"


def test_a_file_that_links_lead_to_is_nowhere_in_the_workspace(workshop, data, tmp_path):
    (tmp_path / "id_rsa").write_text("canary-5e1f")
    (tmp_path / "id_rsa.json").write_text('{"caption": "canary-5e1f", "more": "canary-5e1f"}')
    (data / "photos" / "1.txt").unlink()
    (data / "photos" / "1.txt").symlink_to(tmp_path / "id_rsa")
    (data / "photos" / "2.json").symlink_to(tmp_path / "id_rsa.json")
    workshop.recipe_file.write_text(RECIPE.format(work=tmp_path / "work", data=data))
    workshop.run("--until", "report")
    found = failures(workshop.recipe)
    assert Counter(row.reason for row in found)["failed: blocked_path"] == 2, found
    written = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        assert b"canary-5e1f" not in path.read_bytes(), path
    with duckdb.connect() as db:  # Parquet's pages are compressed
        for path in written:
            if path.suffix == ".parquet":
                rows = db.execute(f"SELECT * FROM read_parquet('{path}')").fetchall()
                assert "canary" not in repr(rows), path
