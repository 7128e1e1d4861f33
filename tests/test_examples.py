from pathlib import Path

import pytest

from rasterloom.recipe.loader import load_recipe

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_recipe(path):
    assert load_recipe(path).sources


def test_the_examples_are_found():
    assert {"quickstart.yaml", "quickstart-small.yaml"} <= {path.name for path in EXAMPLES}


ON_S3 = """
workspace: s3://lake/work
catalog: {type: rest, uri: "http://127.0.0.1:18181/", warehouse: s3://tables}
"""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_moves_to_s3_by_its_workspace_alone(path, tmp_path):
    """As docs/versions.md has it: the line of the workspace gives way to the two of `infra/s3/local.sh`."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("workspace")]
    moved = tmp_path / path.name
    moved.write_text("\n".join(lines) + ON_S3)
    there, here = load_recipe(moved), load_recipe(path)
    assert there.workspace == "s3://lake/work" and there.catalog["warehouse"] == "s3://tables"
    assert there.corpus == here.corpus and there.fetch == here.fetch and there.keep == here.keep
