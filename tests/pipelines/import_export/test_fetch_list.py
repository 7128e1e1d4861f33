"""The command ``fetch``: from a list to a folder of images, without a recipe."""

import csv
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.recipe.loader import load_recipe
from rasterloom.sources.guess import guess_source

PHOTOS = ("astronaut.png", "coffee.png", "rocket.jpg", "none-there.jpg")


def write_list(path, port, names=PHOTOS, captions=True):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Link", *(["Alt"] if captions else []), "n"])
        for number, name in enumerate(names):
            text = [f"a photograph called {name.partition('.')[0]}"] if captions else []
            writer.writerow([f"http://127.0.0.1:{port}/files/photos/{name}", *text, number])
    return path


def options(port):
    return "--set", f'fetch.allow_hosts=["127.0.0.1:{port}"]', "--set", "run.cpus=2"


def test_a_list_becomes_a_folder_and_the_same_call_does_nothing(tmp_path, site, rasterloom, warm_ray):
    folder, port = site
    names = [path.name for path in sorted((folder / "files" / "photos").iterdir())[:3]]
    path, out = write_list(tmp_path / "urls.csv", port, (*names, "none-there.jpg")), tmp_path / "corpus"
    call = ("fetch", path, "--out", out, "--size", "128", *options(port), "--log", "json")
    code, printed, err = rasterloom(*call)
    assert code == 0, err
    told = json.loads(printed.splitlines()[-1])
    assert (told["images"], told["failed"], told["ran"], told["exported"]) == (3, 1, 4, True)
    parts = {}
    with tarfile.open(out / "data" / "train-00000.tar") as tar:
        for member in tar:
            parts[member.name] = tar.extractfile(member).read()
    rows = [json.loads(data) for name, data in parts.items() if name.endswith(".json")]
    assert {row["url"].rpartition("/")[2] for row in rows} == {*names}
    for row in rows:
        image = parts[f"{row['key']}.{'jpg' if row['format'] == 'jpeg' else row['format']}"]
        assert max(Image.open(io.BytesIO(image)).size) <= 128
        assert parts[f"{row['key']}.txt"].decode() == row["caption"] and "photograph" in row["caption"]
        assert row["meta"]["n"] in "012"

    code, printed, _ = rasterloom(*call[:-2])
    assert code == 0 and f"Nothing to do: 3 images in {out}/data (webdataset)" in printed
    assert f"1 row without an image: rasterloom failures {out}/.rasterloom/recipe.yaml" in printed
    _, printed, _ = rasterloom("failures", out / ".rasterloom" / "recipe.yaml")
    assert "http_4xx" in printed

    told = json.loads(rasterloom(*call, "--format", "files")[1].splitlines()[-1])  # exported anew alone
    assert (told["ran"], told["exported"]) == (0, True)
    files = {path.name: path.read_bytes() for path in (out / "data" / "train-00000").iterdir()}
    assert files == parts and not list((out / "data").glob("*.tar"))
    rasterloom(*call, "--format", "parquet")
    table = pq.read_table(out / "data" / "train-00000.parquet")
    assert {json.loads(meta)["n"] for meta in table["meta"].to_pylist()} == {row["meta"]["n"] for row in rows}
    assert guess_source(str(out / "data" / "train-00000.parquet")).source.image == "image"


def test_a_dry_run_writes_nothing(tmp_path, rasterloom):
    path = write_list(tmp_path / "urls.csv", 1, captions=False)
    code, printed, err = rasterloom("fetch", path, "--out", tmp_path / "out", "--size", "512", "--dry-run")
    assert code == 0, err
    assert "  url: Link, caption: none" in printed and "images     run  new" in printed
    assert "4 of 4 steps would run; keep_ratio_largest to 512 pixels, webdataset." in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fetch.deadlines=3", "fetch.deadlines: no such field; did you mean deadline_s?"),
        ("fetch.deadline_s=soon", "fetch.deadline_s: "),
        ("keep.rule=false", "--set keep.rule=false: takes a field of the sections fetch or run"),
        ("fetch.robots", "--set fetch.robots: takes a field"),
        ("fetch.robots=[", "--set fetch.robots=[: its value is not YAML"),
    ],
)
def test_settings_that_cannot_be(tmp_path, rasterloom, setting, words):
    path = write_list(tmp_path / "urls.csv", 1)
    code, _, err = rasterloom("fetch", path, "--out", tmp_path / "out", "--set", setting)
    assert code == 2 and words in err and not (tmp_path / "out").exists()


def test_folders_that_hold_something_else(tmp_path, rasterloom):
    path = write_list(tmp_path / "urls.csv", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    code, _, err = rasterloom("fetch", path, "--out", tmp_path / "full")
    assert code == 2 and "is not empty: name a new folder" in err
    code, _, err = rasterloom("fetch", path, "--out", path)
    assert code == 2 and "is no folder" in err
    code, _, err = rasterloom("fetch", tmp_path, "--out", tmp_path / "inside")
    assert code == 2 and "which is read: name another place" in err
    home = tmp_path / "earlier" / ".rasterloom"
    home.mkdir(parents=True)
    (home / "recipe.yaml").write_text("corpus: a\nsources: [{path: other.csv}]\n")
    assert load_recipe(home / "recipe.yaml").sources[0].path == str(home / "other.csv")
    code, _, err = rasterloom("fetch", path, "--out", tmp_path / "earlier")
    assert code == 2 and f"holds the images of {home / 'other.csv'}: name a new folder" in err


def test_the_folder_has_to_be_named(tmp_path, rasterloom):
    code, _, err = rasterloom("fetch", write_list(tmp_path / "urls.csv", 1))
    assert code == 2 and "Missing option '--out'" in err
