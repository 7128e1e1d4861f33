"""Network addresses that a URL of a data set may lead to.

A list of URLs is a list of requests that strangers ask this machine to make, so nothing but the public
internet is reached: not this machine, not its network, not its cloud's metadata service. The check is made
on the address that a socket is about to connect to, for every hop, so a name that changes its address
between the check and the connection (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from rasterloom.utils.name_cache import Addresses, NameCache

SCHEMES = ("http", "https")
LOOKUPS_AT_ONCE = 16

# What `is_global` lets through or, in some versions of Python, does not know. Forms that carry an IPv4
# address inside are refused as a whole, whatever they carry: no public server is published under one.
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.64.0.0/10",  # carrier-grade NAT, some clouds' metadata
            "168.63.129.16/32",  # Azure's host
            "192.0.0.0/24",  # protocol assignments, some clouds' metadata
            "192.88.99.0/24",  # 6to4 relays
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved
            "2001::/23",  # protocol assignments, Teredo among them
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")  # NAT64 (64:ff9b::/96) and ::a.b.c.d lie outside


class BlockedAddress(OSError):
    """An address that may not be reached. An OSError, because that is what connecting raises."""


def is_public(address: str) -> bool:
    """Tell whether an IPv4 or IPv6 address is a public unicast host's.

    ValueError if it is not an address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # the socket will connect to the IPv4 address
    if ip.version == 6 and ip not in _IPV6_UNICAST:
        return False
    flags = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved)
    if not ip.is_global or ip.is_unspecified or any(flags):
        return False
    return not any(ip in network for network in _REFUSED if network.version == ip.version)


def literal_address(host: str) -> str | None:
    """Return the IP address that a host spells. None if it is a name.

    Takes every spelling that the C library takes: ``2130706433``, ``0x7f.1`` and ``0177.0.0.1`` are all
    ``127.0.0.1``.
    """
    bare = host.strip("[]").partition("%")[0].removesuffix(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(bare)) if bare and " " not in bare else None
    except (OSError, UnicodeError):
        return None


class Gate(AbstractResolver):
    """The resolver and socket factory of a session: the two places that every connection passes.

    ``allow_hosts`` are ``host:port`` pairs, as URLs spell them, that may have any address. ``names`` is a
    file of names that processes share; what it gives is checked as any answer is.
    """

    def __init__(self, allow_hosts: Iterable[str] = (), names: Path | None = None) -> None:
        self._names = NameCache(names, _look_up) if names else None
        self._allowed = frozenset(host.lower().replace("[", "").replace("]", "") for host in allow_hosts)
        self._exempt: set[tuple[str, int]] = set()  # addresses of allowed hosts, as they come up
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="dns")

    def check_url(self, url: URL) -> None:
        """Check a URL whose host is an address. Such a host is never looked up.

        BlockedAddress if it may not be reached.
        """
        host, port = url.host or "", url.port or 0
        address = literal_address(host)
        if address is None:
            return
        if f"{host}:{port}".lower() in self._allowed:
            self._exempt.add((address, port))
        elif not is_public(address):
            spelled = host if address == host else f"{host} is {address}, which"
            raise BlockedAddress(f"{spelled} is not a public address")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up and return its permitted addresses.

        BlockedAddress if it has none; other OSErrors if it has no address at all.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._names or _look_up, host, port, family)
        if f"{host}:{port}".lower() in self._allowed:
            self._exempt.update((address, port) for _, address in found)
        else:
            public = [(kind, address) for kind, address in found if is_public(address)]
            if not public:
                addresses = ", ".join(address for _, address in found)
                raise BlockedAddress(f"{host} leads to {addresses}, which is not a public address")
            found = public
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
            for kind, address in found
        ]

    def open_socket(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Open the socket that is about to connect: the last look at where it is going."""
        family, kind, protocol, _, (address, port, *_) = info
        if (address, port) not in self._exempt and not is_public(address):
            raise BlockedAddress(f"{address} is not a public address")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Let go of the threads. A look-up that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Addresses:
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    except UnicodeError as error:  # a label too long, or empty
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    return [(kind, str(address[0])) for kind, _, _, _, address in found]
