"""Start of the server on a socket."""

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from rasterloom.errors import UserError, one_line
from rasterloom.recipe.recipe import Recipe
from rasterloom.serve.app import application
from rasterloom.serve.guard import Guard
from rasterloom.serve.shelf import Shelf

TOKEN_BYTES = 32
GRACE_S = 2  # that answers may take when the server ends
EVERYWHERE = ("", "0.0.0.0", "::")
HOST = re.compile(r"[\w.:%-]*", re.ASCII)  # a resolver may answer for anything, and the address is printed


@dataclass(frozen=True)
class Served:
    """Server that listens, and the address that lets one in."""

    server: uvicorn.Server
    socket: socket.socket
    url: str

    @property
    def is_private(self) -> bool:
        """True if only this machine can reach it."""
        return ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    def run(self) -> None:
        """Answer until the process is told to end."""
        self.server.run(sockets=[self.socket])


@contextmanager
def serving(recipe: Recipe, host: str = "127.0.0.1", port: int = 0) -> Iterator[Served]:
    """Open a recipe's corpus and a socket.

    Args:
        host: name or address to listen on.
        port: 0 for a free one.

    Raises:
        UserError: it cannot be listened on.
        RecipeError: there are no images yet.
    """
    with _listening(host, port) as listener, Shelf(recipe) as shelf:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(TOKEN_BYTES)
        guard = Guard(application(shelf), token, _names(host), f"rasterloom-{port}")
        config = uvicorn.Config(
            guard,
            access_log=False,  # it would hold the token
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_S,
        )
        shown = socket.gethostname() if host in EVERYWHERE else host
        shown = f"[{shown}]" if ":" in shown else shown
        yield Served(uvicorn.Server(config), listener, f"http://{shown}:{port}/?token={token}")


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if not HOST.fullmatch(host):
        raise UserError("is neither a name nor an address", field="host", value=host)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, ValueError, OverflowError) as error:
        message = f"cannot be listened on: {one_line(error)}"
        raise UserError(message, field="host", value=f"{host}:{port}" if port else host) from None
    with listener:
        yield listener


def _names(host: str) -> frozenset[str]:
    """Names that the server may be asked by."""
    mine = (socket.gethostname(), socket.getfqdn()) if host in EVERYWHERE else (host,)
    return frozenset(name.lower() for name in ("localhost", *mine))
