"""The command ``init``."""

import csv

import pytest
from PIL import Image


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "urls.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Image_URL", "Alt"])
        writer.writerows([n, f"http://a.test/{n}.jpg", f"a cat sits on mat {n}"] for n in range(4))
    return tmp_path


def test_plan_takes_what_init_writes(rasterloom, here):
    code, out, err = rasterloom("init", "urls.csv")
    assert code == 0, err
    assert out.splitlines() == [
        "source urls (csv): 4 rows; 1 .csv read",
        "  url: Image_URL, caption: Alt",
        "  columns: ID, Image_URL, Alt",
        *(f"  http://a.test/{n}.jpg: a cat sits on mat {n}" for n in range(3)),
        "recipe: recipe.yaml; next: rasterloom plan recipe.yaml",
    ]
    code, out, err = rasterloom("plan", "recipe.yaml")
    assert code == 0, err
    assert "source urls (csv): 4 rows" in out and "  new\n" in out


def test_a_folder_of_images(rasterloom, here):
    (here / "photos").mkdir()
    Image.new("RGB", (80, 60), "red").save(here / "photos" / "a.jpg")
    (here / "photos" / "a.txt").write_text("a red wall")
    code, out, err = rasterloom("init", "photos", "--out", "photos.yaml")
    assert code == 0, err
    assert "source photos (folder): 1 row; 1 .jpg, 1 .txt read" in out and "  a.jpg: a red wall" in out
    assert rasterloom("plan", "photos.yaml")[0] == 0


def test_options_are_more_than_guesses(rasterloom, here):
    code, out, _ = rasterloom("init", "urls.csv", "--url", "Image_URL", "--caption", "none", "-o", "a.yaml")
    assert code == 0 and "url: Image_URL, caption: none" in out
    assert out.endswith("next: rasterloom plan a.yaml --until selection\n")
    assert rasterloom("plan", "a.yaml", "--until", "selection")[0] == 0
    for command in ("plan", "run"):
        code, _, err = rasterloom(command, "a.yaml")
        assert code == 2 and "none has captions, and a sequence needs one" in err
    code, _, err = rasterloom("init", "urls.csv", "--url", "Links", "-o", "b.yaml")
    assert code == 2 and "no column 'Links' for the url; it has ID, Image_URL, Alt" in err


def test_what_cannot_be_done_is_one_line_and_exit_2(rasterloom, here):
    (here / "empty").mkdir()
    (here / "a.doc").write_text("words")
    (here / "numbers.csv").write_text("a,b\n1,2\n")
    for place, words in (
        ("none.parquet", "no such file"),
        ("empty", "the folder is empty"),
        ("a.doc", "unknown kind of file '.doc'"),
        ("numbers.csv", "no column holds URLs or images; its columns: a, b"),
    ):
        code, out, err = rasterloom("init", place)
        assert code == 2 and out == "" and words in err and len(err.strip().splitlines()) == 1, err
    assert not (here / "recipe.yaml").exists()
    (here / "recipe.yaml").write_text("mine")
    code, _, err = rasterloom("init", "urls.csv")
    assert code == 2 and err.strip() == "--out recipe.yaml: is there already: name another file"
    assert (here / "recipe.yaml").read_text() == "mine"
