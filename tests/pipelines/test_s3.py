"""A workspace on S3 with a REST catalog, both of a real server."""

import json
import uuid

import pytest


@pytest.fixture
def on_s3(workshop, seaweedfs):
    """The workshop's recipe with its workspace on S3."""
    local = f"workspace: {workshop.recipe_file.parent / 'work'}"
    name = f"c{uuid.uuid4().hex}"
    place = f"workspace: s3://lake/{name}\ncatalog: {json.dumps(seaweedfs.catalog)}"
    return workshop.write(**{local: place, "corpus: little": f"corpus: {name}"})


def test_the_tables_are_those_of_a_local_workspace(on_s3, undisturbed):
    on_s3.run("--until", "tokens")
    mine, theirs = on_s3.tables(), undisturbed.tables()
    for table, rows in theirs.items():
        assert [row for row in mine[table] if row not in rows] == []
    assert mine == theirs
    assert "7 steps, 0 ran now" in on_s3.run("--until", "tokens")
