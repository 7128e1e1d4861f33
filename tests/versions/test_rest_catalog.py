"""The REST catalog: imported where a recipe names one, and given up where it does not answer."""

import socket
import subprocess
import sys
import threading

import pytest
import requests

from rasterloom.storage import s3
from rasterloom.versions.rest_catalog import TimedRestCatalog

IMPORTED = "import sys, rasterloom.pipelines.import_export.fetch_list; print(*sys.modules)"


def test_a_fetch_on_a_disk_does_not_import_it():
    """Its client would take a tenth of the CPU that a run takes to start."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], check=True, text=True, capture_output=True)
    assert {"pyiceberg.catalog", "pyiceberg.catalog.rest", "requests"} & {*done.stdout.split()} == {
        "pyiceberg.catalog"
    }


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
