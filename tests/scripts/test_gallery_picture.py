"""The gallery's picture shows every prompt, and the verdicts."""

import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.pipelines.training.suite_images import SCHEMA, judged, write_suite

SCRIPT = Path(__file__).parents[2] / "scripts" / "gallery_picture.py"


@pytest.fixture(scope="module")
def picture():
    spec = importlib.util.spec_from_file_location("gallery_picture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_prompt_is_shown_with_its_verdict(picture, tmp_path, monkeypatch):
    prompts = ["a large red circle", "two green stars", "a small blue ring above a red square"]
    blank = Image.new("RGB", (128, 128), (250, 250, 250))
    images = [image for seed in (3, 4) for image in judged(prompts, seed, [blank] * 3)]
    write_suite(tmp_path, images)
    rows = pq.read_table(tmp_path / "suite.parquet").to_pylist()
    rows[1]["all_right"] = True
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "suite.parquet")
    out = tmp_path / "gallery.png"
    monkeypatch.setattr("sys.argv", ["gallery_picture.py", str(tmp_path / "suite.parquet"), str(out)])
    picture.main()
    with Image.open(out) as sheet:
        frames = [
            sheet.getpixel((place * picture.CELL + picture.MARGIN - 2, picture.MARGIN)) for place in range(4)
        ]
    assert frames == [picture.WRONG, picture.RIGHT, picture.WRONG, picture.PAPER]  # of the first seed alone
