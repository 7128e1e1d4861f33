"""Private parts of pyiceberg: they are there in the version that is pinned, and do what they are for."""

from importlib.metadata import version

import pytest

from rasterloom.schema import IMAGES, TOKENS
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.create_table import open_or_create
from rasterloom.versions.pyiceberg_compat import HOLDS_FOR, iceberg_schema


def test_they_hold_for_the_version_that_is_installed():
    assert version("pyiceberg").startswith(f"{HOLDS_FOR}."), (
        "look through pyiceberg_compat.py and rest_catalog.py again"
    )


@pytest.mark.parametrize("schema", [IMAGES, TOKENS])
def test_a_schema_has_the_ids_that_a_table_gives(schema, tmp_path):
    table = open_or_create(Corpus("demo", Store(str(tmp_path))), "any", schema, (schema.names[0],))
    assert table.schema().fields == iceberg_schema(schema).fields
    assert [field.name for field in table.spec().fields] == [schema.names[0]]
    assert table.spec().fields[0].source_id == table.schema().find_field(schema.names[0]).field_id
