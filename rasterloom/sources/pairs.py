"""Table of pairs from the sources of a recipe, streamed."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rasterloom.errors import SourceError, StepFailed
from rasterloom.recipe.sources import Source
from rasterloom.schema import PAIRS, ErrorClass
from rasterloom.sources import host_order
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.pair_parts import Part, parts_of, spool_parts, spool_writer
from rasterloom.sources.pair_rows import pair_batches, pair_values
from rasterloom.sources.readers.registry import (
    brings_images,
    check_source,
    is_captioned,
    source_digest,
    source_name,
    unread_files,
)
from rasterloom.sources.readers.row import BLOCKED, UNUSABLE
from rasterloom.sources.repeated_keys import Repeats
from rasterloom.storage.local_disk import temporary_disk

FILE_ROWS = 100_000  # of a table that is given out at a time


def check_sources(
    sources: Sequence[Source], named: Callable[[int], AbstractContextManager[object]] = nullcontext
) -> list[str]:
    """Check that sources can be read, and return their digests.

    Args:
        named: context in which the source of a number is checked, such as one that names it in errors.

    Raises:
        SourceError: one is missing, or has not the columns it names, or its name is another's.
    """
    for number, source in enumerate(sources):
        with named(number):
            check_source(source)
    check_names(sources)
    return [source_digest(source) for source in sources]


def check_names(sources: Sequence[Source]) -> None:
    """Raise SourceError if two sources that bring images have one name."""
    names = [source_name(source) for source in sources]
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        if names.count(name) > 1 and brings_images(source):  # a locator says the source by its name
            raise SourceError(f"sources[{number}]: another source is called {name!r} too; give each a `name`")


def stream_pairs(
    sources: Sequence[Source], counts: dict[str, int], *, by_host: bool = False, processes: int = 1
) -> Iterator[pa.Table]:
    """Yield all sources' pairs, in tables of up to ``FILE_ROWS`` rows.

    No row is lost: the records of each file are rows, or counted with a reason. One whose URL or caption is
    missing or cannot be read as text stands with a null there, and only a pair that has been read already is
    left out, and counted. Rows have a key each of their own and come in the order of the sources, or, where
    there are more than ``host_order.MANY_ROWS`` of them and it is asked for, ``by_host``. ``counts`` gets
    ``read``, ``repeated`` and ``pairs``, of which the first is the sum of the others, and what of the sources
    is not read, by reason. Several ``processes`` read files at once, and give the same rows.

    The rows are written to the system's folder for temporary files first, because which of them repeat
    others is known at the end only.

    Raises:
        SourceError: a file cannot be read, or has not the columns that its source names.
        StepFailed: the rows of a file are not as many as its records.
        StorageError: the folder for temporary files has no room.
    """
    left_out: Counter[str] = Counter()
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="rasterloom-pairs-") as folder, temporary_disk(place):
        parts = parts_of(sources, processes)
        with Repeats(Path(folder, "keys")) as repeats:
            if parts:
                spooled = list(_spooled_apart(parts, Path(folder), processes, repeats, left_out))
            else:
                spooled = list(_spooled(sources, Path(folder), repeats, left_out))
            again = repeats.find()
        pairs = int(len(again) - again.sum())
        counts |= {"read": len(again), "repeated": len(again) - pairs, "pairs": pairs, **left_out}
        tables = _once(_files_again(spooled) if parts else _each(spooled), again)
        if by_host and pairs > host_order.MANY_ROWS:
            tables = _by_host(spooled, tables, Path(folder, "hosts"), pairs)
        for table in tables:
            pairs -= table.num_rows
            yield table
            del table  # before the next one is read
        if pairs:
            raise StepFailed(f"pairs: {pairs:,} rows of the sources are not in the table")


def _spooled(
    sources: Sequence[Source], folder: Path, repeats: Repeats, left_out: Counter[str]
) -> Iterator[Path]:
    """Write the rows of all sources to files, one after the other."""
    for number, batches in enumerate(_files_of(pair_batches(sources, left_out))):
        path = folder / f"{number:06d}.parquet"
        with spool_writer(path) as writer:
            for batch in batches:
                repeats.add(batch["key"].to_pylist())
                writer.write_batch(batch)
        yield path


def _spooled_apart(
    parts: Sequence[Part], folder: Path, processes: int, repeats: Repeats, left_out: Counter[str]
) -> Iterator[Path]:
    """Write the rows of each part to a file, several at once."""
    for path, counts in spool_parts(parts, folder, processes):
        left_out.update(counts)
        for batch in pq.ParquetFile(path).iter_batches(columns=["key"]):
            repeats.add(batch["key"].to_pylist())
        yield path
    for part in parts:
        if part.is_first:
            left_out.update(unread_files(part.source))


def _once(tables: Iterator[pa.Table], again: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """Yield the rows of tables that repeat no earlier ones."""
    start = 0
    for table in tables:
        keep = ~again[start : start + table.num_rows]
        start += table.num_rows
        yield table if keep.all() else table.filter(pa.array(keep))


def _each(spooled: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield a table for each file; the files are deleted."""
    for path in spooled:
        table = pq.read_table(path)
        path.unlink()
        yield table
        del table  # before the next one is read


def _files_again(spooled: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield tables of ``FILE_ROWS``, wherever files end; they are deleted."""
    waiting: list[pa.Table] = []
    rows = 0
    for path in spooled:
        for batch in pq.ParquetFile(path).iter_batches(FILE_ROWS):
            piece = pa.Table.from_batches([batch])
            while rows + piece.num_rows >= FILE_ROWS:
                yield pa.concat_tables([*waiting, piece.slice(0, FILE_ROWS - rows)])
                piece, waiting, rows = piece.slice(FILE_ROWS - rows), [], 0
            waiting.append(piece)
            rows += piece.num_rows
        path.unlink()
    if rows:
        yield pa.concat_tables(waiting)


def _by_host(
    spooled: Sequence[Path], tables: Iterator[pa.Table], folder: Path, rows: int
) -> Iterator[pa.Table]:
    """Yield rows in the order of their hosts; those without come first."""
    order = host_order.HostOrder(folder, rows)
    for path in spooled:
        for batch in pq.ParquetFile(path).iter_batches(FILE_ROWS, columns=["url"]):
            order.count(pa.chunked_array([batch["url"]]))
    for table in tables:
        rest = order.put(table)
        if rest.num_rows:
            yield rest
    yield from order.tables(FILE_ROWS)


def check_pair(pair: dict[str, Any], uncaptioned: Collection[str] = ()) -> None:
    """Check that a row names an image and a caption. A sample need not have them.

    Args:
        uncaptioned: names of the sources whose images have no captions.

    Raises:
        FetchFailure: BAD_ROW, BLOCKED_PATH, BAD_URL or BAD_CAPTION.
    """
    if pair["turns"] is not None:
        return
    is_pair = pair["task"] is not None
    if not is_pair and BLOCKED in (pair["meta"] or "") and (why := json.loads(pair["meta"]).get(BLOCKED)):
        raise FetchFailure(ErrorClass.BLOCKED_PATH, str(why))
    has_image = pair["path"] is not None or bool((pair["url"] or "").strip())
    has_caption = pair["source"] in uncaptioned or bool((pair["caption"] or "").strip())
    if pair["path"] is None or not has_caption:
        reason = json.loads(pair["meta"]).get(UNUSABLE) if UNUSABLE in (pair["meta"] or "") else None
        if reason is not None:
            raise FetchFailure(ErrorClass.BAD_ROW, str(reason))
    if not has_image:
        raise FetchFailure(ErrorClass.BAD_URL, "no URL, or none that is text")
    if not has_caption:
        raise FetchFailure(ErrorClass.BAD_CAPTION, "no caption, or none that is text")


def first_pairs(source: Source, examples: int, rows: int) -> tuple[list[dict[str, Any]], int | None]:
    """Read the first rows of a source: some as rows of ``schema.PAIRS``, and how many rows it has.

    None for their number if they are more than ``rows``.

    Raises:
        SourceError: a file cannot be read, or has not the columns that its source names.
    """
    found: list[dict[str, Any]] = []
    number = 0
    with closing(pair_values(source, Counter())) as values:
        for number, row in enumerate(values, 1):
            if number > rows:
                return found, None
            if len(found) < examples:
                found.append(dict(zip(PAIRS.names, row, strict=True)))
    return found, number


def read_sources(sources: Sequence[Source]) -> tuple[pa.Table, dict[str, int]]:
    """Read the pairs of all sources into memory: the rows of :func:`stream_pairs`, and its counts."""
    counts: dict[str, int] = {}
    tables = list(stream_pairs(sources, counts))
    return pa.concat_tables([PAIRS.empty_table(), *tables]), counts


def _files_of(batches: Iterator[pa.RecordBatch]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Group batches by the file that they go to. A group is to be used up before the next is asked for."""
    first: pa.RecordBatch | None = next(batches, None)

    def group() -> Iterator[pa.RecordBatch]:
        nonlocal first
        rows = 0
        while first is not None and rows < FILE_ROWS:
            rows += first.num_rows
            yield first
            first = next(batches, None)

    while first is not None:
        yield group()


def uncaptioned_sources(sources: Sequence[Source]) -> frozenset[str]:
    """Return the names of the sources whose images have no captions."""
    return frozenset(source_name(source) for source in sources if not is_captioned(source))
