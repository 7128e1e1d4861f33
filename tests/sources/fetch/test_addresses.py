"""Which addresses may be reached, at the resolver and the socket, without a connection."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from yarl import URL

from rasterloom.sources.fetch import addresses
from rasterloom.sources.fetch.addresses import BlockedAddress, Gate, is_public, literal_address


@pytest.mark.parametrize(
    "ip", ["8.8.8.8", "93.184.216.34", "151.101.1.69", "2606:4700::6810:84e5", "2a00:1450:4001:80b::200e"]
)
def test_public_addresses_pass(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "192.88.99.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "fc00::1", "fd00:ec2::254",
        "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "5f00::1", "4000::1",
    ],
)  # fmt: skip
def test_other_addresses_do_not(ip: str) -> None:
    assert not is_public(ip)


def test_mapped_address_is_judged_as_the_address_it_maps() -> None:
    assert is_public("::ffff:8.8.8.8")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "127.1"]
)
def test_every_spelling_of_loopback_is_known(host: str) -> None:
    assert literal_address(host) == "127.0.0.1"


@pytest.mark.parametrize("host", ["example.com", "localhost", "", "1.2.3.4.5", "127.0.0.1 example.com", "0x"])
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://①②⑦.0.0.1/",
        "http://example.com@127.0.0.1/", "http://example.com:80@127.0.0.1:81/", "http://169.254.169.254/",
        "http://127.0.0.1:8001/", "http://[::1]:8000/", "http://2130706433:8000/",
    ],
)  # fmt: skip
def test_urls_with_such_hosts_are_refused(url: str) -> None:
    with pytest.raises(BlockedAddress):
        Gate(["127.0.0.1:8000"]).check_url(URL(url))


def _info(ip: str, port: int) -> tuple[int, int, int, str, tuple[str, int]]:
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port)


def test_allowed_host_passes_with_its_port_only() -> None:
    gate = Gate(["127.0.0.1:8000", "[::1]:8001"])
    gate.check_url(URL("http://127.0.0.1:8000/a"))
    gate.check_url(URL("http://[::1]:8001/a"))
    gate.open_socket(_info("127.0.0.1", 8000)).close()
    with pytest.raises(BlockedAddress):
        gate.open_socket(_info("127.0.0.1", 8001))


def test_socket_is_refused_whatever_led_to_it() -> None:
    with pytest.raises(BlockedAddress, match=r"169\.254\.169\.254"):
        Gate().open_socket(_info("169.254.169.254", 80))
    Gate().open_socket(_info("8.8.8.8", 80)).close()  # opened, not connected


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A world of names in place of the network's."""
    table: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in table[host]]
        return [
            (family, socket.SOCK_STREAM, 6, "", (ip, port))
            for family, ip in zip(families, table[host], strict=True)
        ]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return table


def found(gate: Gate, host: str, port: int = 80) -> list[str]:
    return [result["host"] for result in asyncio.run(gate.resolve(host, port))]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(["intranet.test:8080", "127.0.0.1:8000"])
    yield gate
    asyncio.run(gate.close())


def test_names_are_judged_by_their_addresses(gate: Gate, names: dict[str, list[str]]) -> None:
    names |= {
        "public.test": ["8.8.8.8"],
        "private.test": ["10.0.0.7"],
        "both.test": ["127.0.0.1", "8.8.4.4", "::1"],
        "intranet.test": ["10.0.0.8"],
    }
    assert found(gate, "public.test") == ["8.8.8.8"]
    assert found(gate, "both.test") == ["8.8.4.4"]
    assert found(gate, "intranet.test", 8080) == ["10.0.0.8"]
    with pytest.raises(BlockedAddress, match=r"private\.test leads to 10\.0\.0\.7"):
        found(gate, "private.test")
    with pytest.raises(BlockedAddress):
        found(gate, "intranet.test", 80)
    with pytest.raises(socket.gaierror):
        found(gate, "nowhere.test")


def test_name_that_changes_its_address_gains_nothing(gate: Gate, names: dict[str, list[str]]) -> None:
    names["rebind.test"] = ["8.8.8.8"]
    first = found(gate, "rebind.test")
    names["rebind.test"] = ["127.0.0.1"]
    assert first == ["8.8.8.8"]  # what is connected to: an address, not a name
    with pytest.raises(BlockedAddress):
        found(gate, "rebind.test")
    with pytest.raises(BlockedAddress):
        gate.open_socket(_info("127.0.0.1", 80))


def test_foreign_name_cannot_use_the_exemption_of_an_allowed_host(
    gate: Gate, names: dict[str, list[str]]
) -> None:
    gate.check_url(URL("http://127.0.0.1:8000/"))
    names["evil.test"] = ["127.0.0.1"]
    with pytest.raises(BlockedAddress):
        found(gate, "evil.test", 8000)


def test_name_that_cannot_be_one_does_not_resolve(gate: Gate) -> None:
    with pytest.raises(socket.gaierror):
        found(gate, "a" * 70 + ".test")
