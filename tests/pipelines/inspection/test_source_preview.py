"""Sources as `plan` and `doctor` show them, and a run that keeps nothing."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.pipelines.inspection import source_preview
from rasterloom.pipelines.inspection.source_preview import preview
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sources import Source

PHOTOS = Path(__file__).parents[2] / "sources" / "img2dataset" / "files"
JPEG = PHOTOS / "00000" / "000000.jpg"


@pytest.fixture
def recipe(tmp_path):
    """A recipe of a list that is a folder with more in it, and of a folder of images."""
    data, photos = tmp_path / "data", tmp_path / "photos"
    (data / "_temporary").mkdir(parents=True)
    rows = {"url": ["http://a.test/1.jpg", None], "caption": ["a dog\x1b[31m" + "!" * 200, "two"]}
    pq.write_table(pa.table(rows), data / "a.parquet")
    pq.write_table(pa.table(rows), data / "_temporary" / "b.parquet")
    (data / "more.jsonl.gz").write_bytes(b"x")
    photos.mkdir()
    for name, text in (("1.jpg", "one"), ("2.jpg", "two")):
        shutil.copy(JPEG, photos / name)
        (photos / name).with_suffix(".txt").write_text(text)
    (photos / "notes.md").write_text("x")
    path = tmp_path / "recipe.yaml"
    sources = "sources: [{path: data}, {path: photos}]"
    path.write_text(f"corpus: demo\nworkspace: {tmp_path}/work\n{sources}\nscore: [flatness]\n")
    return path


def test_plan_shows_the_sources(recipe, rasterloom):
    code, out, _ = rasterloom("plan", recipe)
    lines = out.splitlines()
    assert code == 0 and "\x1b[31m" not in out
    assert lines[0] == "source data (parquet): 2 rows; 1 .parquet read"
    assert "  1 .parquet not read (names with _ in front are private" in out
    assert "  1 .jsonl.gz not read (of another kind" in out
    assert (
        "  http://a.test/1.jpg: a dog" in out and "  no image: bad_url: no URL, or none that is text" in out
    )
    at = lines.index("source photos (folder): 2 rows; 2 .jpg, 2 .txt read")
    assert lines[at + 1 : at + 4] == ["  1 .md not read (no image)", "  1.jpg: one", "  2.jpg: two"]
    code, out, _ = rasterloom("plan", recipe, "--format", "json")
    assert {"step", "runs"} <= json.loads(out.splitlines()[0]).keys()


def test_long_sources_are_not_read_to_their_end(recipe, monkeypatch):
    monkeypatch.setattr(source_preview, "ROWS", 1)
    assert preview(load_recipe(recipe).sources[0]).rows == "more than 1 rows"


def test_samples_are_shown_with_their_task(recipe, tmp_path):
    (tmp_path / "edits.jsonl").write_text(
        '{"in": "photos/1.jpg", "out": "photos/2.jpg", "caption": "turn it"}\n'
    )
    source = Source(path=str(tmp_path / "edits.jsonl"), task="edit", input="in", output="out")
    assert preview(source).examples == ["photos/2.jpg: edit: turn it"]


def test_images_without_captions_are_no_fault_where_the_recipe_says_so(tmp_path):
    (tmp_path / "list.txt").write_text("http://a.test/1.jpg\n")
    source = Source(path=str(tmp_path / "list.txt"), caption="none")
    assert preview(source).examples == ["http://a.test/1.jpg: no caption"]


def test_plan_of_a_source_that_cannot_be_used_stops(recipe, rasterloom):
    for text in (recipe.parent / "photos").glob("*.txt"):
        text.unlink()
    (recipe.parent / "photos" / "metadata.csv").write_text("file_name,text\n1.jpg,one\n")
    code, _, err = rasterloom("plan", recipe)
    assert code == 2
    assert err.rstrip().endswith("no captions found beside its 2 images; metadata.csv is there: kind: hf?")


def test_doctor_checks_sources_scores_and_the_rule(recipe, rasterloom):
    _, out, _ = rasterloom("doctor", recipe)
    assert "ok   source data (parquet): 1 .parquet read; 1 .parquet not read" in out
    assert "ok   source photos (folder): 2 .jpg, 2 .txt read; 1 .md not read (no image)" in out
    assert "ok   scores: flatness" in out and "ok   keep: " in out
    text = (
        recipe.read_text().replace("path: data", "path: gone").replace("score: [flatness]", "keep: nice > 1")
    )
    recipe.write_text(text)
    code, out, _ = rasterloom("doctor", recipe)
    assert code == 1
    assert (
        f"bad  source: {recipe.parent}/gone: no such file or folder" in out and "bad  score and keep: " in out
    )


def test_a_run_that_keeps_nothing_says_why(workshop):
    workshop.recipe_file.write_text(
        workshop.recipe_file.read_text().replace("keep: min_side >= 64", "keep: min_side >= 100000")
    )
    for _ in range(2):  # the second time, nothing is left to run
        process = workshop.start("--until", "selection")
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 4, printed
        assert "selection: none of " in printed and "rule: min_side >= 100000 " in printed


def test_what_is_not_read_is_in_the_record(workshop, recipe):
    workshop.recipe_file.write_text(recipe.read_text().replace("{path: data}, ", "") + "run: {cpus: 1}\n")
    printed = workshop.run("--until", "pairs")
    assert "source photos: 1 .md not read (no image)" in printed
    assert "2 rows: pairs 2, read 2, not read, no image, nor beside one 1" in printed
