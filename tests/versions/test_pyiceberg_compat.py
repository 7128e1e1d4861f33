"""Private parts of pyiceberg: they are there in the version that is pinned, and do what they are for."""

import socket
import threading
from importlib.metadata import version

import pytest
import requests

from rasterloom.schema import IMAGES, TOKENS
from rasterloom.storage import s3
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.create_table import open_or_create
from rasterloom.versions.pyiceberg_compat import HOLDS_FOR, TimedRestCatalog, iceberg_schema


def test_they_hold_for_the_version_that_is_installed():
    assert version("pyiceberg").startswith(f"{HOLDS_FOR}."), "look through pyiceberg_compat.py again"


@pytest.mark.parametrize("schema", [IMAGES, TOKENS])
def test_a_schema_has_the_ids_that_a_table_gives(schema, tmp_path):
    table = open_or_create(Corpus("demo", Store(str(tmp_path))), "any", schema, (schema.names[0],))
    assert table.schema().fields == iceberg_schema(schema).fields
    assert [field.name for field in table.spec().fields] == [schema.names[0]]
    assert table.spec().fields[0].source_id == table.schema().find_field(schema.names[0]).field_id


def test_a_catalog_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(s3, "REQUEST_S", 0.2)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                over.wait(10)  # and closes without a word

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            with pytest.raises(requests.exceptions.ReadTimeout):
                TimedRestCatalog("demo", uri=f"http://127.0.0.1:{server.getsockname()[1]}")
        finally:
            over.set()
            thread.join()
