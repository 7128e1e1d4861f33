"""The S3 server of the tests, for benchmarks, behind a proxy that counts."""

import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from conftest import SeaweedFS, two_ports  # noqa: E402
from faultproxy import FaultProxy  # noqa: E402


class Counting:
    """A server and the requests that clients make of it."""

    def __init__(self, server: SeaweedFS, proxy: FaultProxy, catalog: FaultProxy) -> None:
        self.proxy, self._catalog, self._server = proxy, catalog, server

    @property
    def catalog(self) -> tuple[tuple[str, str], ...]:
        return tuple({**self._server.catalog, "uri": f"http://{self._catalog.address}/"}.items())

    def counted(self) -> Counter[str]:
        """Requests since the last call: of S3 by method, and of the catalog."""
        found = Counter(method for method, *_ in self.proxy.seen)
        found["catalog"] = len(self._catalog.seen)
        self.proxy.seen.clear()
        self._catalog.seen.clear()
        return found


@contextlib.contextmanager
def local_s3(folder: str) -> Iterator[Counting]:
    """SeaweedFS in a folder, started, with the variables set that lead to it through the proxy."""
    ports = {f"{name}.port": two_ports(_free_port) for name in ("master", "volume", "filer", "s3")}
    ports |= {name: _free_port() for name in ("s3.port.iceberg", "s3.port.lance")}
    server = SeaweedFS(Path(folder), ports)
    os.environ.update(server.variables)
    server.start()
    proxies = [FaultProxy(f"127.0.0.1:{ports[name]}") for name in ("s3.port", "s3.port.iceberg")]
    try:
        server.shell("s3tables.bucket -create -name tables -account 000000000000\n")
        os.environ["AWS_ENDPOINT_URL"] = f"http://{proxies[0].address}"
        yield Counting(server, *proxies)
    finally:
        for proxy in proxies:
            proxy.close()
        server.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
