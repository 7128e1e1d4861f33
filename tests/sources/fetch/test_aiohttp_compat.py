"""The version of aiohttp that is installed is the one whose private parts were looked at."""

import asyncio
from importlib.metadata import version

from rasterloom.sources.fetch.aiohttp_compat import HOLDS_FOR, Handler, connector


def test_the_version_is_the_one_that_was_looked_at() -> None:
    assert version("aiohttp").startswith(f"{HOLDS_FOR}."), "look through aiohttp_compat.py again"


def test_connections_tidy_heads() -> None:
    async def made() -> object:
        connections = connector()
        try:
            return connections._factory()
        finally:
            await connections.close()

    assert isinstance(asyncio.run(made()), Handler)
