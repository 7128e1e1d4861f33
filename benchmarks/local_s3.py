"""The tests' S3 server for benchmarks, and counting proxies."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from faultproxy import FaultProxy  # noqa: E402
from seaweed import SeaweedFS, served  # noqa: E402


class Counting:
    """Proxies in front of a server's data and catalog. They run in this process, and cost it time."""

    def __init__(self, server: SeaweedFS) -> None:
        ports = (server.ports["s3.port"], server.ports["s3.port.iceberg"])
        self._data, self._catalog = (FaultProxy(f"127.0.0.1:{port}") for port in ports)
        os.environ["AWS_ENDPOINT_URL"] = f"http://{self._data.address}"
        self.catalog = tuple({**server.catalog, "uri": f"http://{self._catalog.address}/"}.items())

    def counted(self) -> Counter[str]:
        """Requests since the last call: of S3 by method, and of the catalog."""
        found = Counter(method for method, *_ in self._data.seen)
        found["catalog"] = len(self._catalog.seen)
        self._data.seen.clear()
        self._catalog.seen.clear()
        return found

    def close(self) -> None:
        self._data.close()
        self._catalog.close()


@contextlib.contextmanager
def local_s3(folder: str) -> Iterator[SeaweedFS]:
    """SeaweedFS in a folder, started, with its variables set."""
    with served(Path(folder)) as server:
        yield server
