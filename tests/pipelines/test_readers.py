"""The programs that docs/versions.md shows for other readers, run as they stand there."""

import re
from pathlib import Path

import pytest

from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.recipe.run import Run

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
