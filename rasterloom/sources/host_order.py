"""Order of a long list of pairs by host.

A shard then has all rows of most of its hosts, and a host is asked by one worker, which looks its name up
once and reads its robots.txt once. Hosts of many rows come in pieces at even distances, for no shard to wait
for one host alone. The order depends on the rows and on nothing else.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MANY_ROWS = 1_000_000  # from which on a list is ordered
PIECE_ROWS = 250  # of a host, side by side
PART_ROWS = 250_000  # sorted in memory at once, about
COUNTERS = 1 << 22  # of the rows of hosts; hosts that share one count as larger than they are
HOST = r"^[\x00-\x20]*(?i:https?):[/\\]*(?:[^/\\?#@]*@)?(?P<host>[^/\\?#:]+)"

Keys = NDArray[np.uint64]


class HostOrder:
    """Rows on their way into the order.

    Count all of them first, then put them.

    Args:
        folder: an empty folder for its files, which take as much room as the rows.
        rows: about how many there are.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        folder.mkdir(parents=True)
        self._bits = max(1, (rows // PART_ROWS).bit_length())
        self._parts = [folder / f"{number:06d}.arrows" for number in range(1 << self._bits)]
        self._counts = np.zeros(COUNTERS, np.uint32)

    def count(self, urls: pa.ChunkedArray) -> None:
        """Count the rows of each host."""
        hosts, of_row, _ = _hosts(urls)
        np.add.at(self._counts, hosts[of_row] % COUNTERS, 1)

    def put(self, rows: pa.Table) -> pa.Table:
        """Take rows in; return those that have no host."""
        hosts, of_row, has_host = _hosts(rows["url"])
        placed = rows.filter(pa.array(has_host))
        order = self._places(hosts[of_row], placed["key"])
        placed = placed.append_column("order", pa.array(order))
        part = (order >> np.uint64(64 - self._bits)).astype(np.int64)
        placed = placed.take(pa.array(np.argsort(part, kind="stable")))
        ends = np.cumsum(np.bincount(part, minlength=len(self._parts)))
        for path, start, end in zip(self._parts, [0, *ends[:-1]], ends, strict=True):
            if end > start:
                _append(path, placed.slice(start, end - start))
        return rows.filter(pa.array(~has_host))

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield the rows in their order, so many at a time."""
        for path in self._parts:
            if path.exists():
                part = pa.concat_tables(_streams(path))
                path.unlink()
                order = np.argsort(part["order"].to_numpy(), kind="stable")
                part = part.drop_columns(["order"])
                for start in range(0, len(order), rows):
                    yield part.take(pa.array(order[start : start + rows])).combine_chunks()

    def _places(self, hosts: Keys, keys: pa.ChunkedArray) -> Keys:
        """Return where rows belong: at a hash of their host, or at one of its pieces."""
        rows = self._counts[hosts % COUNTERS].astype(np.uint64)
        pieces = (rows + np.uint64(PIECE_ROWS - 1)) // np.uint64(PIECE_ROWS)
        of_key = np.frombuffer(bytes.fromhex("".join(keys.to_pylist())), ">u8")[::2].astype(np.uint64)
        distance = np.uint64(2**64 - 1) // pieces
        places: Keys = hosts + of_key % pieces * distance  # it wraps around
        return places


def _hosts(urls: pa.ChunkedArray) -> tuple[Keys, NDArray[np.int64], NDArray[np.bool_]]:
    """Return hashes of hosts, whose each row is, and which have one."""
    found = pc.struct_field(pc.extract_regex(urls, HOST), "host").combine_chunks()
    coded = pc.utf8_lower(found).dictionary_encode()
    has_host = coded.is_valid().to_numpy(zero_copy_only=False)
    of_row = coded.indices.drop_null().to_numpy().astype(np.int64)
    hashes = [blake2b(name.encode(), digest_size=8).digest() for name in coded.dictionary.to_pylist()]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64), of_row, has_host


def _append(path: Path, rows: pa.Table) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with open(path, "ab") as file, pa.ipc.new_stream(file, rows.schema, options=options) as writer:
        writer.write_table(rows)


def _streams(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as file:
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as reader:
                yield reader.read_all()
