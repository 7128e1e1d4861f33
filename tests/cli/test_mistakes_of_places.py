"""Sentences of mistakes about lists, folders and addresses; see test_mistakes.py."""

import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Places -> what `plan recipe.yaml` says of a recipe with one as its source. HERE is the recipe's folder.
OF_SOURCES = {
    "photos/a.jpg": ("recipe.yaml:2: sources[0]: HERE/photos/a.jpg: no such file or folder"),
    "cat.jpg": (
        "recipe.yaml:2: sources[0]: HERE/cat.jpg: one image is no source: name its folder, or a list of "
        "images"
    ),
    "good.yaml": (
        "recipe.yaml:2: sources[0]: HERE/good.yaml: a recipe is no source: rasterloom plan or run takes it"
    ),
    "notes": (
        "recipe.yaml:2: sources[0]: HERE/notes: no images there, and no URLs in its .txt files: 'a red cat'"
    ),
}
# Command lines -> what they say.
OF_COMMANDS = {
    "init good.yaml": "HERE/good.yaml: a recipe is no source: rasterloom plan or run takes it",
    "init cat.jpg": "HERE/cat.jpg: one image is no source: name its folder, or a list of images",
    "init notes": "HERE/notes: no images there, and no URLs in its .txt files: 'a red cat'",
    "init photos": "photos: the folder is empty",
    "init pairs.parquet --out good.yaml": "--out good.yaml: is there already: name another file",
    "fetch pairs.parquet": "Missing option '--out' / '-o'.  (--help says more)",
    "fetch pairs.parquet --out cat.jpg": "--out cat.jpg: is no folder",
    "fetch pairs.parquet --out notes": "--out notes: is not empty: name a new folder",
    "fetch pairs.parquet --out c --resize center-crop": (
        "--resize center-crop: no such mode; did you mean center_crop? known: keep_ratio_largest, "
        "keep_ratio, center_crop, border, none"
    ),
    "fetch pairs.parquet --out c --size 512x512": (
        "Invalid value for '--size': it takes a whole number  (--help says more)"
    ),
    "fetch pairs.parquet --out c --format tfrecord": (
        "Invalid value for '--format': 'tfrecord' is not one of 'hf', 'webdataset', 'parquet', 'files'.  "
        "(--help says more)"
    ),
    "fetch pairs.parquet --out c --set fetch.deadline=10": (
        "--set: fetch.deadline: no such field; did you mean deadline_s?"
    ),
    "fetch pairs.parquet --out c --set deadline_s=10": (
        "--set deadline_s=10: takes a field of the sections fetch or run: fetch.deadline_s=10"
    ),
    "fetch pairs.parquet --out c --url URL": (
        "HERE/pairs.parquet: no column 'URL' for the url; it has url, caption"
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the files that the mistakes name, in which they are made."""
    table = pa.table({"url": ["http://a/1.jpg", "http://a/2.jpg"], "caption": ["one", "two"]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    for empty in ("photos", "notes"):
        (tmp_path / empty).mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a red cat\n")
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "good.yaml").write_text("corpus: demo\nsources: [{path: pairs.parquet}]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("place", "sentence"), OF_SOURCES.items())
def test_a_source_that_is_none(rasterloom, folder, place, sentence):
    (folder / "recipe.yaml").write_text(f"corpus: demo\nsources: [{{path: {place}}}]\n")
    assert rasterloom("plan", "recipe.yaml") == (2, "", sentence.replace("HERE", str(folder)) + "\n")


@pytest.mark.parametrize(("command", "sentence"), OF_COMMANDS.items())
def test_a_list_that_is_none(rasterloom, folder, command, sentence):
    said = sentence.replace("HERE", str(folder)) + "\n"
    assert rasterloom(*shlex.split(command)) == (2, "", said)


def test_a_cluster_s_address(rasterloom):
    sentence = "'head' is no address of a dashboard, such as http://head:8265\n"
    assert rasterloom("jobs", "list", "--address", "head") == (1, "", sentence)
