"""Parts of sources, read by processes of their own."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rasterloom.errors import RasterloomError, SourceError
from rasterloom.recipe.sources import Source
from rasterloom.schema import PAIRS
from rasterloom.sources.pair_rows import pair_batches
from rasterloom.sources.readers.registry import files_read
from rasterloom.storage.local_disk import temporary_disk

LEAST_BYTES = 10_000_000  # of lists in all, below which one process is as quick
PARTS_A_PROCESS = 4  # so that one with long rows does not hold up the end
LOOK_EVERY_S = 1.0
CHILD = "from rasterloom.sources.pair_parts import main; main()"


@dataclass(frozen=True)
class Part:
    """A source, or some of its files, in their order."""

    source: Source
    names: tuple[str, ...] | None = None
    is_first: bool = False  # of several of a source


def parts_of(sources: Sequence[Source], processes: int) -> list[Part]:
    """Cut sources into parts to be read at once. None where that does not pay."""
    if processes < 2:
        return []
    files = [files_read(source) for source in sources]
    total = sum(size for found in files for _, size in found)
    if total < LEAST_BYTES:
        return []
    parts: list[Part] = []
    for source, found in zip(sources, files, strict=True):
        parts += _cut(source, found, total / (processes * PARTS_A_PROCESS)) if found else [Part(source)]
    return parts if len(parts) > 1 else []


def _cut(source: Source, files: Sequence[tuple[str, int]], most: float) -> Iterator[Part]:
    names: list[str] = []
    size, is_first = 0, True
    for name, one in files:
        if names and size + one > most:
            yield Part(source, tuple(names), is_first)
            names, size, is_first = [], 0, False
        names.append(name)
        size += one
    yield Part(source, tuple(names), is_first)


@contextmanager
def spool_writer(path: Path) -> Iterator[pq.ParquetWriter]:
    """Open a file for rows of pairs that are read again soon."""
    with pq.ParquetWriter(path, PAIRS, compression="lz4", use_dictionary=False) as writer:
        yield writer


def spool_parts(parts: Sequence[Part], folder: Path, processes: int) -> Iterator[tuple[Path, Counter[str]]]:
    """Write the rows of each part to a file. Yield the files in order, with what is no row by reason.

    Raises:
        SourceError, StepFailed, StorageError: as of reading here.
    """
    running: set[subprocess.Popen[bytes]] = set()
    paths = [folder / f"part-{number:06d}.parquet" for number in range(len(parts))]
    pool = ThreadPoolExecutor(processes, thread_name_prefix="pairs")
    try:
        found = pool.map(lambda part, path: _in_process(part, path, running), parts, paths)
        yield from zip(paths, found, strict=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(running):
            child.kill()
        pool.shutdown()


def _in_process(part: Part, path: Path, running: set[subprocess.Popen[bytes]]) -> Counter[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as child:
        running.add(child)
        try:
            answer, _ = child.communicate(pickle.dumps((part, path, os.getpid())))
        finally:
            running.discard(child)
    if child.returncode:
        raise SourceError(f"{part.source.paths[0]}: the process that read it ended with {child.returncode}")
    found: Counter[str] | RasterloomError = pickle.loads(answer)
    if isinstance(found, RasterloomError):
        raise found
    return found


def main() -> None:
    """Read the part that comes by the standard input."""
    part, path, parent = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    found: Any
    try:
        found = spool(part, path)
    except RasterloomError as error:
        found = error
    sys.stdout.buffer.write(pickle.dumps(found))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def spool(part: Part, path: Path) -> Counter[str]:
    """Write the rows of a part to a file. Return what is no row, by reason."""
    left_out: Counter[str] = Counter()
    with temporary_disk(str(path.parent.parent)), spool_writer(path) as writer:
        for batch in pair_batches([part.source], left_out, part.names):
            writer.write_batch(batch)
    return left_out
