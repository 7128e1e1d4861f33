"""Listening sockets of a run's or cluster's processes, whoever their parent."""

import contextlib
import ipaddress
import re

import psutil

SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_[\d-]+_\d+_\d+")  # a name of Ray's, for each cluster


def family(root):
    """A process and all that belong to it: its children, and those of the Ray sessions that it has."""
    found = {p.pid: p for p in _with_children(root)}
    sessions = {name for process in found.values() for name in SESSION.findall(command_of(process))}
    for process in psutil.process_iter():
        if process.pid not in found and sessions & set(SESSION.findall(command_of(process))):
            found.update({p.pid: p for p in _with_children(process)})
    return list(found.values())


def listening(root):
    """The (command, address, port) of each socket of a process family."""
    found = set()
    for process in family(root):
        with contextlib.suppress(psutil.Error):
            command = command_of(process)
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((command, *connection.laddr))
    return found


def assert_only_loopback(root, heard=None):
    """Check that a process family listens, only on loopback."""
    heard = listening(root) if heard is None else heard
    assert heard, "nothing listens: it has ended, or not begun"
    assert not (others := [one for one in heard if not _is_loopback(one[1])]), others


def _is_loopback(address):
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _with_children(process):
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def command_of(process):
    """A process's command line, empty once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
