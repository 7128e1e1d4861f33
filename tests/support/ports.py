"""Free ports of 127.0.0.1, never the same twice, apart between processes."""

import itertools
import os
import socket

# Below those that the kernel gives to connections, so that none takes one between finding and listening. A
# port's partner, PARTNER above it, is free too: servers of gRPC take it unasked.
FIRST, COUNT, PARTNER = 20_000, 2_700, 10_000
_numbers = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port that is free now, as is its partner."""
    for number in itertools.islice(_numbers, COUNT):
        port = FIRST + number % COUNT
        if _is_free(port) and _is_free(port + PARTNER):
            return port
    raise RuntimeError(f"no port of {FIRST} to {FIRST + COUNT} is free")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
