"""Names of hosts that the processes of a machine look up once."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rasterloom.utils import name_cache
from rasterloom.utils.name_cache import NameCache

ANY = socket.AF_UNSPEC
OTHER_PROCESS = """
import socket, sys
from pathlib import Path
from rasterloom.utils.name_cache import NameCache

def refuse(*_):
    raise AssertionError("it is looked up again")

print(NameCache(Path(sys.argv[1]), refuse)("a.test", 443, socket.AF_UNSPEC))
"""


@pytest.fixture
def asked():
    return []


@pytest.fixture
def names(tmp_path, asked):
    """A cache before names that are there, that are not, and whose server does not answer."""

    def look_up(host, port, family):
        asked.append(host)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host.startswith("later"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]

    return NameCache(tmp_path / "names.sqlite", look_up)


def test_a_name_is_looked_up_once(names, asked):
    found = [names("a.test", port, ANY) for port in (80, 443)]
    assert found[0] == found[1] == [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
    assert all(isinstance(kind, socket.AddressFamily) for kind, _ in found[1])
    assert asked == ["a.test"]


def test_another_process_has_it(names, tmp_path):
    names("a.test", 80, ANY)
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "names.sqlite")]
    assert "192.0.2.1" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_that_there_is_no_such_name_is_kept_and_that_nobody_answered_is_not(names, asked):
    for host in ("none.test", "later.test"):
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                names(host, 80, ANY)
    assert asked == ["none.test", "later.test", "later.test"]


def test_answers_have_an_end(names, asked, monkeypatch):
    now = time.time()
    for later in (0, name_cache.NONE_KEPT_S + 1, name_cache.KEPT_S + 1):
        monkeypatch.setattr(name_cache.time, "time", lambda later=later: now + later)
        names("a.test", 80, ANY)
        with pytest.raises(socket.gaierror):
            names("none.test", 80, ANY)
    assert asked == ["a.test", "none.test", "none.test", "a.test", "none.test"]


def test_old_answers_are_deleted(names, tmp_path, monkeypatch):
    monkeypatch.setattr(name_cache, "CLEAN_EVERY", 5)
    monkeypatch.setattr(name_cache, "KEPT_S", 0.0)
    for number in range(10):
        names(f"{number}.test", 80, ANY)
    assert names._open().execute("select count(*) from names").fetchone()[0] <= 1


def test_many_threads_and_a_file_that_is_none(names, asked, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: names(f"{number % 20}.test", 80, ANY), range(400)))
    assert 20 <= len(asked) < 200
    (tmp_path / "broken").write_bytes(b"no database at all" * 100)
    broken = NameCache(tmp_path / "broken", lambda *_: [(socket.AF_INET, "192.0.2.2")])
    assert broken("a.test", 80, ANY) == [(socket.AF_INET, "192.0.2.2")]
