import importlib
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline would time the machine, not the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


@pytest.fixture(scope="session")
def quickstart():
    """A function that imports a module of examples/quickstart, which is no package."""

    def load(name):
        sys.path.insert(0, str(QUICKSTART))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(QUICKSTART))

    return load


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port of 127.0.0.1 that nobody listens on."""

    def find():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    return find
