"""Files that others made become versions."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.schema import SCORES, SELECTION, pair_key
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import made


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://example.org/a.jpg,a\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"corpus: taken\nworkspace: {tmp_path}/work\nsources: [{{path: pairs.csv}}]\n"
        "fetch: {shard_rows: 4}\ntokenize: {targets: [64], text_vocab: 300}\nrun: {cpus: 2}\n"
    )
    return file


def png(number):
    pixels = np.full((80, 96, 3), number * 20, np.uint8)
    pixels[10:40, 10:40] = 255 - number * 20
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def foreign(tmp_path):
    """Two files of six rows with names of their own, the last without a picture that can be read."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for part in range(2):
        rows = [
            {
                "URL": f"http://example.org/{n}.png",
                "TEXT": f"picture number {n}",
                "bytes": png(n) if n < 11 else b"no",
                "beauty": n / 10,
            }
            for n in range(6 * part, 6 * part + 6)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet")
    return folder


NAMES = ("--column", "url=URL", "--column", "caption=TEXT")


def test_a_foreign_data_set_is_tokenised_without_a_source(rasterloom, recipe, foreign):
    code, printed, error = rasterloom(
        "versions", "adopt", recipe, "images", foreign, *NAMES, "--column", "image=bytes"
    )
    assert code == 0 and "12 rows; 0 files taken where they lie, 4 written" in printed, error
    code, printed, error = rasterloom(
        "versions", "adopt", recipe, "scores", foreign, *NAMES, "--column", "beauty=beauty"
    )
    assert code == 0, error
    code, _, error = rasterloom("versions", "adopt", recipe, "selection", foreign, *NAMES)
    assert code == 0, error
    corpus = Corpus.of(load_recipe(recipe))
    images = {row["key"]: row for row in corpus.read("images").to_pylist()}
    first = images[pair_key("http://example.org/0.png", "picture number 0")]
    assert (first["status"], first["width"], first["height"], first["format"]) == ("ok", 96, 80, "png")
    last = images[pair_key("http://example.org/11.png", "picture number 11")]
    assert last["status"] == "failed" and last["error"] == "not_an_image"
    scores = {row["key"]: row for row in corpus.read("scores").to_pylist()}
    assert {k: r["shard"] for k, r in scores.items()} == {k: r["shard"] for k, r in images.items()}
    assert scores[first["key"]]["beauty"] == 0.0
    records = {v.table: v.record for v in made(corpus)}
    assert records["scores"].inputs == {"images": records["images"].fingerprint}
    assert records["images"].config["columns"]["url"] == "URL"
    code, printed, error = rasterloom("tokenize", recipe)
    assert code == 0, printed + error
    assert corpus.read("tokens", ["key"]).num_rows == 11
    code, printed, error = rasterloom("versions", "lineage", recipe, "tokens/64")
    assert code == 0 and "made of images@" in printed


def test_files_that_fit_stay_where_they_lie_and_the_same_again_is_the_same_version(
    rasterloom, recipe, foreign, tmp_path
):
    rasterloom("versions", "adopt", recipe, "images", foreign, *NAMES, "--column", "image=bytes")
    corpus = Corpus.of(load_recipe(recipe))
    keys = corpus.read("images", ["key", "shard"])
    rows = keys.append_column("grace", pa.array([0.5] * len(keys), pa.float64()))
    corpus.store.write_parquet("mine/a.parquet", rows.cast(pa.schema([*SCORES, ("grace", pa.float64())])))
    for _ in range(2):
        code, printed, error = rasterloom("versions", "adopt", recipe, "scores", tmp_path / "work" / "mine")
        assert code == 0 and "12 rows; 1 files taken where they lie, 0 written" in printed, error
    (version,) = [v for v in made(corpus) if v.table == "scores"]
    assert [f.name for f in corpus.files("scores")] == ["mine/a.parquet"]
    assert len(corpus.table("scores").snapshots()) == 1 and version.record.rows == 12
    assert {p.step.name: p.runs for p in Workflow(load_recipe(recipe)).plan()}["images"], (
        "the recipe asks for others"
    )


def test_an_export_comes_back(rasterloom, recipe, undisturbed, tmp_path):
    out = tmp_path / "out"
    assert rasterloom("versions", "export", undisturbed.recipe_file, out, "--as", "parquet")[0] == 0
    for table in ("images", "scores", "selection"):
        code, _, error = rasterloom("versions", "adopt", recipe, table, out / "data")
        assert code == 0, error
    corpus = Corpus.of(load_recipe(recipe))
    kept = {row["key"] for row in undisturbed.rows("selection") if row["kept"]}
    for table in ("images", "scores", "selection"):
        assert set(corpus.read(table, ["key"])["key"].to_pylist()) == kept
    images = {row["key"]: row["caption"] for row in undisturbed.rows("images")}
    assert all(row["caption"] == images[row["key"]] for row in corpus.read("images").to_pylist())
    assert corpus.table("scores").schema().column_names == ["key", "shard", "flatness"]
    assert corpus.read("selection").schema.names == SELECTION.names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tokens", "{foreign}"), "no table tokens can be imported; it takes pairs, images"),
        (("images", "{foreign}/none"), "no Parquet file there"),
        (("images", "{foreign}/none.parquet"), "no such file"),
        (("images", "{foreign}"), "has neither key nor url and caption"),
        (("images", "{foreign}", *NAMES), "has no column image"),
        (("images", "{foreign}", "--column", "url=LINK"), "0.parquet has no column LINK; it has URL, TEXT"),
        (
            ("images", "{foreign}", "--column", "link=URL"),
            "images has no such column; it has key, shard, url",
        ),
        (("images", "{foreign}", "--column", "url"), "--column takes NAME=THEIRS, not url"),
        (("scores", "{foreign}", *NAMES), "scores are of images, and the corpus has none yet"),
        (
            ("pairs", "{foreign}", *NAMES, "--column", "weight=TEXT"),
            "weight is string, and pairs takes double",
        ),
    ],
)
def test_what_is_wrong_is_one_line(rasterloom, recipe, foreign, arguments, words):
    code, printed, error = rasterloom(
        "versions", "adopt", recipe, *(a.replace("{foreign}", str(foreign)) for a in arguments)
    )
    assert code == 2 and words in error and len(error.strip().splitlines()) == 1, printed + error
    assert Corpus.of(load_recipe(recipe)).snapshot_id("images") is None
