"""torch's process group within a machine, on its loopback interface only.

torch's own rendezvous listens on all interfaces, and lets anybody in.
"""

import os
import socket
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

LOOPBACK = "127.0.0.1"

_store: TCPStore | None = None  # the group's, where this process serves it


def serve_store(timeout: timedelta) -> int:
    """Serve the store through which ranks find each other; returns its port."""
    global _store
    listener = socket.create_server((LOOPBACK, 0))
    port = int(listener.getsockname()[1])
    _store = TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return port


def join(backend: str, port: int, rank: int, world_size: int, timeout: timedelta) -> None:
    """Make this process a rank of a group on this machine."""
    interface = loopback_interface()
    os.environ.update(
        MASTER_ADDR=LOOPBACK,
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME=interface,
        NCCL_SOCKET_IFNAME=interface,
    )
    store = TCPStore(LOOPBACK, port, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def loopback_interface() -> str:
    """Return the name of this machine's loopback interface: lo on Linux, lo0 on macOS."""
    return next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
