"""Opt-out lists: hosts with subdomains, URLs, prefixes of URLs, hashes.

A text file has one entry a line (``#`` begins a comment): a host ``example.org``, a URL, a prefix of URLs
that ends in ``*``, the SHA-256 of a file in hex, or the perceptual hash of an image in hex, with the number
of bits in which others may differ: ``c3e1f0a9871625b4~4``. A CSV or Parquet file has columns named ``host``,
``url``, ``prefix``, ``sha256`` and ``phash``, one or more of them. http and https are one: an entry for
either is obeyed for both.
"""

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from yarl import URL

from rasterloom.errors import OptOutError, one_line
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.urls import canonical
from rasterloom.storage.store import Entry, Store
from rasterloom.utils.json_files import lines_of

COLUMNS = ("host", "url", "prefix", "sha256", "phash")
COMPARED = 1 << 21  # pairs of perceptual hashes at once

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PHASH = re.compile(r"([0-9a-f]{16})(?:~([0-9]|1[0-6]))?")
_HOST = re.compile(r"[^\s/:*?#@]+\.[^\s/:*?#@]+|localhost")


@dataclass(frozen=True)
class OptOuts:
    """Entries of an opt-out list, in the forms for look-ups."""

    hosts: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()  # sorted, none of which begins another
    hashes: frozenset[str] = frozenset()
    phashes: tuple[tuple[int, tuple[int, ...]], ...] = ()  # by radius in bits

    def near(self, phashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Tell which perceptual hashes are within the radius of an entry."""
        found = np.zeros(len(phashes), bool)
        for radius, entries in self.phashes:
            listed = np.array(entries, np.uint64)
            step = max(1, COMPARED // max(1, len(phashes)))
            for start in range(0, len(listed), step):
                differing = np.bitwise_count(listed[start : start + step, None] ^ phashes)
                found |= (differing <= radius).any(axis=0)
        return found

    def of_url(self, url: URL) -> str | None:
        """Return the entry that forbids a URL, None if none does."""
        host = (url.host or "").lower().rstrip(".")
        while self.hosts and host:
            if host in self.hosts:
                return host
            host = host.partition(".")[2]
        if not self.urls and not self.prefixes:
            return None
        address = _address(canonical(url))
        if address in self.urls:
            return address
        place = bisect_right(self.prefixes, address)
        if place and address.startswith(self.prefixes[place - 1]):
            return self.prefixes[place - 1] + "*"
        return None


NOTHING = OptOuts()


def check_phash(phash: str, opt_outs: OptOuts) -> None:
    """Check a decoded image against a list.

    Raises:
        FetchFailure: its perceptual hash is within the radius of an entry.
    """
    if opt_outs.phashes and opt_outs.near(np.array([int(phash, 16)], np.uint64))[0]:
        raise FetchFailure(ErrorClass.OPT_OUT, f"the opt-out list has an image near perceptual hash {phash}")


def opt_outs_digest(path: str) -> str:
    """Return a list's digest, for a step's identity. OptOutError if it cannot be read."""
    return hashlib.blake2b(_read(path), digest_size=16).hexdigest()


def load_opt_outs(path: str | None) -> OptOuts:
    """Read a list, or reuse it while its file is unchanged. None gives an empty one.

    Raises:
        OptOutError: the file cannot be read, or an entry is none of the four kinds.
    """
    if path is None:
        return NOTHING
    store, name = _place(path)
    try:
        return _load(path, store.entry(name))
    except OSError as error:
        raise OptOutError(f"fetch.opt_out: {path} cannot be read: {_why(error)}") from None


@lru_cache(maxsize=1)
def _load(path: str, as_it_is: Entry) -> OptOuts:
    data = _read(path)
    if path.endswith(".csv"):
        as_text = pacsv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
        columns = _columns(path, pacsv.read_csv(pa.BufferReader(data), convert_options=as_text))
    elif path.endswith((".parquet", ".pq")):
        columns = _columns(path, pq.read_table(pa.BufferReader(data)))
    else:
        columns = _lines(path, data)
    return opt_outs_of(columns, path)


def opt_outs_of(columns: dict[str, list[str]], where: str) -> OptOuts:
    """Entries by kind, in the forms that they are looked up by. OptOutError if a URL is none."""
    try:
        prefixes = sorted({_address(URL(_with_scheme(p.rstrip("*")))) for p in columns["prefix"]})
        urls = frozenset(_address(URL(_with_scheme(u))) for u in columns["url"])
    except ValueError as error:
        raise OptOutError(f"{where}: not a URL: {error}") from None
    hosts = frozenset(h.lower().removeprefix("*.").rstrip(".") for h in columns["host"])
    hashes = frozenset(h.lower() for h in columns["sha256"])
    return OptOuts(hosts, urls, tuple(_outermost(prefixes)), hashes, _by_radius(columns.get("phash", ())))


def _by_radius(entries: Iterable[str]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    found: dict[int, set[int]] = {}
    for entry in entries:
        value, _, radius = entry.partition("~")
        found.setdefault(int(radius or 0), set()).add(int(value, 16))
    return tuple((radius, tuple(sorted(found[radius]))) for radius in sorted(found))


def _place(path: str) -> tuple[Store, str]:
    folder, _, name = (path if "://" in path else os.path.abspath(path)).rpartition("/")
    return Store(folder or "/"), name


def _read(path: str) -> bytes:
    store, name = _place(path)
    try:
        return store.read(name)
    except OSError as error:
        raise OptOutError(f"fetch.opt_out: {path} cannot be read: {_why(error)}") from None


def _why(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else one_line(error)


def _columns(path: str, table: pa.Table) -> dict[str, list[str]]:
    if not set(COLUMNS) & set(table.column_names):
        there = ", ".join(table.column_names)
        raise OptOutError(f"{path}: needs a column named {', '.join(COLUMNS)}; it has {there}")
    found: dict[str, list[str]] = {}
    for name in COLUMNS:
        values = table[name].to_pylist() if name in table.column_names else []
        found[name] = [str(value).strip() for value in values if value not in (None, "")]
    for value in found["sha256"]:
        if not _SHA256.fullmatch(value.lower()):
            raise OptOutError(f"{path}: {value!r} is not the SHA-256 of a file, 64 hex digits")
    for value in found["phash"]:
        if not _PHASH.fullmatch(value.lower()):
            raise OptOutError(
                f"{path}: {value!r} is not a perceptual hash, 16 hex digits and perhaps ~0 to ~16"
            )
    return found


def _lines(path: str, data: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for number, line in enumerate(lines_of(data.decode("utf-8-sig", "replace")), 1):
        entry = "" if line.startswith("#") else line.split(" #")[0].strip()
        if not entry:
            continue
        kind = kind_of(entry)
        if kind is None:
            raise OptOutError(
                f"{path}, line {number}: {entry!r} is no host, URL, prefix*, SHA-256 or perceptual hash"
            )
        found[kind].append(entry)
    return found


def kind_of(entry: str) -> str | None:
    """Return the one of ``COLUMNS`` for an entry, None without."""
    if _SHA256.fullmatch(entry.lower()):
        return "sha256"
    if _PHASH.fullmatch(entry.lower()):
        return "phash"
    if _HOST.fullmatch(entry.removeprefix("*.")):
        return "host"
    if "/" in entry and not any(c.isspace() for c in entry):
        return "prefix" if entry.endswith("*") else "url"
    return None


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _address(url: URL) -> str:
    """A URL without what makes no difference: scheme, default port, user, fragment."""
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{(url.host or '').lower().rstrip('.')}{port}{url.raw_path_qs}"


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Of sorted prefixes those that no other one begins."""
    kept: list[str] = []
    for prefix in prefixes:
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept
