"""The programs that docs/versions.md shows and `versions reader` prints, run as they stand there."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from pyiceberg.utils.config import Config

from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.reader_program import reader_program

DOCS = Path(__file__).parents[2] / "docs" / "versions.md"
BLOCKS = {
    match["reader"]: match[0].removeprefix("```python\n").removesuffix("```")
    for match in re.finditer(r"```python\n# (?P<reader>[\w ]+).*?```", DOCS.read_text(), re.DOTALL)
}


@pytest.fixture
def beside(two_versions, monkeypatch):
    """The folder that the programs are run in: the one with the recipe, whose workspace is `work`."""
    monkeypatch.chdir(two_versions.recipe_file.parent)
    return two_versions


def run(reader):
    names = {}
    program = (BLOCKS["pyiceberg"] + BLOCKS[reader]).replace("small.", "little.")
    exec(compile(program, str(DOCS), "exec"), names)
    return names


def test_every_reader_has_a_program():
    assert list(BLOCKS) == ["pyiceberg", "DuckDB", "Polars", "Ray Data"]


def test_pyiceberg_reads_a_tag(beside):
    kept = {row["key"] for row in beside.before["selection"] if row["kept"]}
    assert set(run("pyiceberg")["kept"]["key"].to_pylist()) == kept


def test_duckdb_counts(beside):
    found = dict(run("DuckDB")["reasons"].fetchall())
    reasons = [row["reason"] for row in beside.before["selection"]]
    assert found == {reason: reasons.count(reason) for reason in reasons}


def test_polars_joins(beside):
    sizes = run("Polars")["sizes"]
    kept = [row["key"] for row in beside.before["selection"] if row["kept"]]
    assert sorted(sizes["key"].to_list()) == sorted(kept)
    assert sizes["width"].min() >= 64


def test_ray_data_streams_tokens(beside):
    start_ray(Run(cpus=2))
    total = run("Ray Data")["total"]
    assert total == sum(row["n_tokens"] for row in beside.before["tokens"])


@pytest.mark.parametrize("library", ["pyiceberg", "duckdb", "polars", "ray"])
def test_the_program_that_is_printed_reads_the_version(two_versions, rasterloom, library):
    if library == "ray":
        start_ray(Run(cpus=2))
    counts = []
    for at, table in (("v1", "selection"), ("main", "tokens")):
        code, program, error = rasterloom(
            "versions", "reader", two_versions.recipe_file, table, "--for", library, "--at", at
        )
        assert code == 0, error
        counts.append((program, at, table))
    for program, at, table in counts:
        expected = two_versions.before[table] if at == "v1" else two_versions.rows(table)
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(program, "program", "exec"), {})
        assert str(len(expected)) in printed.getvalue()


def test_a_table_that_is_not_there_is_named(two_versions, rasterloom):
    code, _, error = rasterloom("versions", "reader", two_versions.recipe_file, "pictures")
    assert code != 0 and "has no table pictures; it has pairs, images" in error


def test_the_program_holds_no_secrets(monkeypatch):
    """They come from the environment, and the program says from which variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    given = {
        "type": "rest",
        "uri": "http://127.0.0.1:2",
        "credential": "me:hidden",
        "s3.secret-access-key": "hidden",
        "metrics": "https://me:hidden@127.0.0.1:3",
    }
    corpus = Corpus("a", Store("s3://lake/a"), tuple(given.items()))
    monkeypatch.setattr(Corpus, "snapshot_id", lambda *_: 7)
    program = reader_program(corpus, "images", "polars")
    assert "hidden" not in program and "'uri': 'http://127.0.0.1:2'" in program
    assert "# Not printed: credential, metrics, s3.secret-access-key; set " in program
    for variable in re.findall(r"PYICEBERG\w+", program):
        monkeypatch.setenv(variable, "hidden")
    taken = Config().get_catalog_config("rasterloom")
    assert taken == dict.fromkeys(("credential", "metrics", "s3.secret-access-key"), "hidden")
    assert "storage_options={'aws_region': 'us-east-1', 'aws_endpoint_url': 'http://127.0.0.1:1'" in program
