"""Addresses of host names, shared by the processes of a machine.

The C library's resolver tells no time to live, so an answer is kept for a few minutes. That a name does not
exist is kept, too; that no server answered is not.
"""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

KEPT_S = 240.0
NONE_KEPT_S = 60.0
CLEAN_EVERY = 10_000  # answers written, by one process
WAIT_S = 0.5  # for another process that writes
NO_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Addresses = list[tuple[socket.AddressFamily, str]]
LookUp = Callable[[str, int, socket.AddressFamily], Addresses]


class NameCache:
    """Cache in front of a look-up. Any number of threads and processes may use one file.

    Args:
        file: in a folder that is this user's alone. Where it cannot be used, names are looked up.
    """

    def __init__(self, file: Path, look_up: LookUp) -> None:
        self._file, self._look_up = file, look_up
        self._local = threading.local()
        self._written = 0

    def __call__(self, host: str, port: int, family: socket.AddressFamily) -> Addresses:
        """Return the addresses of a host. OSError as of the look-up."""
        found = self._read(host, family)
        if found is None:
            try:
                found = [(int(kind), address) for kind, address in self._look_up(host, port, family)]
            except socket.gaierror as error:
                if error.errno in NO_NAME:
                    self._write(host, family, [(int(error.errno or 0), str(error.strerror))], -1, NONE_KEPT_S)
                raise
            self._write(host, family, found, 1, KEPT_S)
        return [(socket.AddressFamily(kind), address) for kind, address in found]

    def _read(self, host: str, family: int) -> list[tuple[int, str]] | None:
        query = "select found, is_there from names where host = ? and family = ? and until > ?"
        try:
            row = self._open().execute(query, (host, int(family), time.time())).fetchone()
        except sqlite3.Error:
            return None
        if row is None:
            return None
        found = [(int(kind), str(text)) for kind, text in json.loads(row[0])]
        if row[1] < 0:
            raise socket.gaierror(*found[0])
        return found

    def _write(self, host: str, family: int, found: list[tuple[int, str]], there: int, kept_s: float) -> None:
        now = time.time()
        row = host, int(family), json.dumps(found), there, now + kept_s
        try:
            with self._open() as names:
                names.execute("insert or replace into names values (?, ?, ?, ?, ?)", row)
                self._written += 1
                if self._written % CLEAN_EVERY == 0:
                    names.execute("delete from names where until < ?", (now,))
        except sqlite3.Error:
            return  # the next one looks it up again

    def _open(self) -> sqlite3.Connection:
        names: sqlite3.Connection | None = getattr(self._local, "names", None)
        if names is None:
            names = sqlite3.connect(self._file, timeout=WAIT_S)
            names.execute("pragma journal_mode = wal")
            names.execute("pragma synchronous = off")  # what a crash takes is looked up again
            names.execute(
                "create table if not exists names (host text, family int, found text, is_there int,"
                " until real, primary key (host, family)) without rowid"
            )
            self._local.names = names
        return names
