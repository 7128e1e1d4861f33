"""The server of bench_dead_hosts.py: live hosts, and hosts that accept connections and never answer.

python benchmarks/dead_hosts.py FOLDER LIVE DEAD

Each host is a port of 127.0.0.1. It prints their numbers as JSON: the live ones, then the dead ones. Live
hosts give the images of the folder, for /n.jpg the n-th modulo their number.
"""

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client is tired of it
    writer.close()


async def serve(folder: Path, live: int, dead: int) -> None:
    files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    async def answer(request: web.Request) -> web.Response:
        if not request.path.endswith(".jpg"):
            return web.Response(status=404)
        return web.Response(body=files[int(request.path[1:-4]) % len(files)], content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    for _ in range(live):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    mute = [await asyncio.start_server(silent, "127.0.0.1", 0) for _ in range(dead)]
    ports = [address[1] for address in runner.addresses]
    print(json.dumps([ports, [server.sockets[0].getsockname()[1] for server in mute]]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
