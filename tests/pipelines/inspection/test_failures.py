import shutil
from pathlib import Path

import skimage

from rasterloom.pipelines.inspection.failures import failures

PHOTOS = Path(skimage.__file__).parent / "data"
LOCAL = """
corpus: photos
workspace: {workspace}
sources: [{{path: list.csv, image: file, caption: text}}]
score: [flatness]
dedup: {{phash_radius: 4}}
tokenize: {{targets: [64]}}
"""


def test_a_reason_that_there_is_not_is_said(undisturbed, rasterloom):
    recipe = undisturbed.recipe_file
    for form in ("table", "json"):
        code, out, err = rasterloom("failures", recipe, "--reason", "http_4x", "--format", form)
        assert (code, out) == (2, "") and "--reason http_4x: no such reason; did you mean http_4xx?" in err
    assert rasterloom("failures", recipe, "--reason", "tls") == (0, "No pair was dropped for tls.\n", "")
    found = rasterloom("failures", recipe, "--reason", "http_4xx", "--host", "example.org")
    assert found == (0, "No pair of example.org was dropped for http_4xx.\n", "")


def test_local_images_are_named_by_their_paths(tmp_path, workshop_at, rasterloom):
    """In failures by path, a duplicate with what it is one of, and explained by the name of the file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat #1.png", "copy.png"):
        shutil.copy(PHOTOS / "chelsea.png", folder / name)
    (tmp_path / "list.csv").write_text("file,text\n" + "".join(
        f"photos/{name},{name}\n" for name in ("cat #1.png", "copy.png", "gone.png")
    ))  # fmt: skip
    shop = workshop_at(tmp_path / "recipe.yaml")
    shop.recipe_file.write_text(LOCAL.format(workspace=tmp_path / "work"))
    shop.run("--until", "selection")
    (gone,) = failures(shop.recipe, "missing_file")
    assert (gone.url, gone.path, gone.detail) == (None, "photos/gone.png", "photos/gone.png is not there")
    (copy,) = [f for f in failures(shop.recipe) if "duplicate" in f.reason]
    names = {"photos/cat %231.png", "photos/copy.png"}
    assert {copy.path, copy.detail.removeprefix("of ")} == names
    code, out, _ = rasterloom("failures", shop.recipe_file)
    assert code == 0 and "photos/gone.png" in out and "(no URL)" not in out
    code, out, _ = rasterloom("failures", shop.recipe_file, "--reason", "missing_file")
    assert (
        out == f"{gone.key}  failed: missing_file  photos/gone.png  photos/gone.png is not there\n1 pair.\n"
    )
    for name in ("photos/cat #1.png", "photos/cat %231.png"):
        code, out, _ = rasterloom("explain", shop.recipe_file, name)
        assert code == 0 and "caption: cat #1.png" in out
