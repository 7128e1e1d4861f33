"""Workspaces, recipes' folders and sources whose paths have characters that URIs, SQL and globs escape."""

import json
import os
import shutil
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyiceberg.catalog import load_catalog
from pyiceberg.table import StaticTable
from sqlalchemy import URL

from rasterloom.errors import RecipeError, SourceError
from rasterloom.pipelines.cluster.packaging import package
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sources import Source
from rasterloom.report.queries import Tables
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.versions.corpus import Corpus

RECIPE = """
corpus: odd
workspace: ./work
sources: [{{path: {source}}}]
fetch: {{robots: false}}
score: [flatness]
keep: "true"
tokenize: {{targets: [64], text_vocab: 300}}
run: {{cpus: 1}}
"""
NAMES = (
    "my corpus",
    "münchen 日本",
    "100%",
    "a%20b",
    "wo?rk",
    "wo#rk",
    "shoot [2020]",
    "a+b&c=d;e,f",
    'it\'s "so"',
    "back\\slash",
    "st*r",
)
ALL = "a [b] c%20d?e#f+g&ü'h\"i\\j*"


@pytest.fixture
def recipe_in(tmp_path, quickstart):
    """A function that writes a recipe and its images into a folder of a name."""

    def write(name, source="input"):
        folder = tmp_path / name
        (folder / "input").mkdir(parents=True)
        for number in range(3):
            image = Image.effect_noise((96, 96), 40 + 20 * number).convert("RGB")
            image.save(folder / "input" / f"{number}.png")
            (folder / "input" / f"{number}.txt").write_text(f"image {number}")
        (folder / "recipe.yaml").write_text(RECIPE.format(source=json.dumps(source)))
        return folder / "recipe.yaml"

    return write


def read_back(folder, table):
    """Rows of a table as pyiceberg alone reads them: by the catalog, and by its metadata file."""
    file = next(folder.glob("work/*.db"))
    url = URL.create("sqlite", database=str(file)).render_as_string()
    opened = load_catalog("rasterloom", type="sql", uri=url, warehouse=str(folder / "work")).load_table(
        f"odd.{table}"
    )
    rows = opened.scan().to_arrow()
    assert StaticTable.from_metadata(opened.metadata_location).scan().to_arrow().equals(rows)
    files = [task.file.file_path for task in opened.scan().plan_files()]
    assert polars.scan_iceberg(opened).select("key").collect().height == rows.num_rows
    assert len(duckdb.read_parquet(files)) == rows.num_rows
    return files, rows


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_a_folder_of_any_name(recipe_in, rasterloom, warm_ray, name, tmp_path):
    file = recipe_in(name)
    code, out, err = rasterloom("run", file, "--until", "selection", "-q")
    assert code == 0, out + err
    before = sorted(p for p in (file.parent / "work").rglob("*.parquet"))
    assert len(before) >= 4
    assert [p.name for p in tmp_path.iterdir()] == [name], "something was written beside the folder"
    _, rows = read_back(file.parent, "selection")
    assert rows.num_rows == 3 and all(rows["kept"].to_pylist())

    code, out, err = rasterloom("run", file, "--until", "selection", "-q")
    assert code == 0, out + err
    assert sorted(p for p in (file.parent / "work").rglob("*.parquet")) == before
    assert rasterloom("versions", "log", file)[0] == 0
    code, out, err = rasterloom("versions", "verify", file)
    assert code == 0, out + err


def test_tokens_report_and_export_in_a_folder_with_all_of_them(recipe_in, rasterloom, warm_ray, tmp_path):
    file = recipe_in(ALL, "input/*.png")
    code, out, err = rasterloom("run", file, "--until", "tokens", "-q")
    assert code == 0, out + err
    files, rows = read_back(file.parent, "tokens")
    assert rows.num_rows == 3 and all(Path(name).is_file() for name in files)
    code, out, err = rasterloom("report", file)
    assert code == 0, out + err
    page = next((file.parent / "work").rglob("index.html"))
    assert ALL in out.replace("\n", "") and "data:image/" in page.read_text()
    code, out, err = rasterloom("versions", "tag", file, "v1")
    assert code == 0, out + err
    code, out, err = rasterloom("versions", "export", file, tmp_path / ALL / "out", "--at", "v1")
    assert code == 0, out + err
    assert list((tmp_path / ALL / "out").rglob("*.*"))
    code, out, err = rasterloom("versions", "gc", file)
    assert code == 0, out + err
    assert rasterloom("versions", "verify", file)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == [ALL], "something was written beside the folder"


def test_the_report_does_not_take_a_workspace_for_a_glob(recipe_in, rasterloom, warm_ray, tmp_path):
    file = recipe_in("[ab]")
    code, out, err = rasterloom("run", file, "--until", "images", "-q")
    assert code == 0, out + err
    shutil.copytree(tmp_path / "[ab]", tmp_path / "a")
    for copy in (tmp_path / "a").rglob("*.parquet"):
        copy.write_bytes(b"of another workspace")
    corpus = Corpus.of(load_recipe(file))
    with Tables(corpus, {"images": corpus.snapshot_id("images")}) as tables:
        keys = [row["key"] for row in tables.sql("SELECT key FROM images")]
        assert len(keys) == 3
        assert all(name.startswith(f"{tmp_path}/[ab]/") for name in tables.files_with("images", keys))


@pytest.mark.parametrize(("name", "reads"), [("a%20b?ü", True), ("[red]", False)])
def test_a_data_set_on_disk_is_read_or_refused_with_the_reason(recipe_in, name, reads):
    file = recipe_in(name)
    pq.write_table(pa.table({"url": ["http://a/1"], "caption": ["one"]}), file.parent / "input" / "x.parquet")
    for other in (file.parent / "input").glob("*.[pt][nx][gt]"):
        other.unlink()
    source = Source(path=str(file.parent / "input"), kind="hf")
    if reads:
        assert read_sources([source])[0]["caption"].to_pylist() == ["one"]
    else:
        with pytest.raises(SourceError, match="takes the brackets for a pattern: rename the folder"):
            check_sources([source])


def test_a_job_takes_along_what_a_glob_in_brackets_means(recipe_in):
    file = recipe_in("shoot [2020]", "input/[01].png")
    assert "input/0.png" in package(file, load_recipe(file)).files
    (file.parent / ".rayignore").write_text("*.png\n*.txt\n")
    with pytest.raises(RecipeError, match=r"sources\[0\]: input/\[01\].png is left out"):
        package(file, load_recipe(file))


def test_the_digest_of_a_recipe_does_not_know_its_folder(recipe_in):
    digests = {load_recipe(recipe_in(name)).digest for name in ("plain", *NAMES, ALL)}
    assert len(digests) == 1


def test_a_workspace_that_cannot_work_is_one_line_that_names_the_field(recipe_in, tmp_path):
    file = recipe_in("plain")
    text = file.read_text()
    for prefix in ("a?b", "a#b"):
        file.write_text(text.replace("./work", f"s3://lake/{prefix}\ncatalog: {{type: rest, uri: http://c}}"))
        with pytest.raises(RecipeError, match=r"^workspace s3://lake/a[?#]b: a prefix on S3 may have no"):
            load_recipe(file)
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    os.rename(file, folder + b"/recipe.yaml")
    Path(os.fsdecode(folder + b"/recipe.yaml")).write_text(text)
    with pytest.raises(RecipeError, match=r"^workspace .*udcff/work: the path is not UTF-8"):
        load_recipe(Path(os.fsdecode(folder + b"/recipe.yaml")))
