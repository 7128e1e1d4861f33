"""Table of pairs from the sources of a recipe, streamed."""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.errors import SourceError, StepFailed
from rasterloom.recipe.sources import Column, Source
from rasterloom.schema import PAIRS, T2I, ErrorClass, pair_key
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.readers.registry import (
    brings_images,
    check_source,
    is_captioned,
    read_rows,
    source_digest,
    source_name,
    unread_files,
)
from rasterloom.sources.readers.row import (
    BATCH_ROWS,
    BLOCKED,
    NO_PAIR,
    UNREADABLE,
    UNUSABLE,
    Row,
    SourceSample,
    wanted_columns,
)
from rasterloom.sources.readers.tally import Tally
from rasterloom.sources.readers.tasks import is_url, text_of
from rasterloom.sources.repeated_keys import Repeats

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
ROLES = ("url", "caption", "weight", "licence")  # of columns whose values stand in the table as they are
FILE_ROWS = 100_000  # of a table that is given out at a time
BATCH_CHARACTERS = 100_000_000  # of a batch of rows, however few; Arrow ends at 2 GB


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


def stream_pairs(sources: Sequence[Source], counts: dict[str, int]) -> Iterator[pa.Table]:
    """Yield all sources' pairs, in tables of up to ``FILE_ROWS`` rows.

    No row is lost: the records of each file are rows, or counted with a reason. One whose URL or caption is
    missing or cannot be read as text stands with a null there, and only a pair that has been read already is
    left out, and counted. Rows have a key each of their own and come in the order of the sources. ``counts``
    gets ``read``, ``repeated`` and ``pairs``, of which the first is the sum of the others, and what of the
    sources is not read, by reason.

    The rows are written to the system's folder for temporary files first, because which of them repeat
    others is known at the end only.

    Raises:
        SourceError: a file cannot be read, or has not the columns that its source names.
        StepFailed: the rows of a file are not as many as its records.
    """
    left_out: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="rasterloom-pairs-") as folder:
        spooled: list[Path] = []
        with Repeats(Path(folder, "keys")) as repeats:
            for number, batches in enumerate(_files_of(_batches(sources, left_out))):
                spooled.append(Path(folder, f"{number:06d}.parquet"))
                with pq.ParquetWriter(spooled[-1], PAIRS, compression="lz4", use_dictionary=False) as writer:
                    for batch in batches:
                        repeats.add(batch["key"].to_pylist())
                        writer.write_batch(batch)
            again = repeats.find()
        pairs = int(len(again) - again.sum())
        counts |= {"read": len(again), "repeated": len(again) - pairs, "pairs": pairs, **left_out}
        start = 0
        for path in spooled:
            table = pq.read_table(path)
            keep = ~again[start : start + table.num_rows]
            start += table.num_rows
            table = table if keep.all() else table.filter(pa.array(keep))
            path.unlink()
            pairs -= table.num_rows
            yield table
            del table  # before the next one is read
        if pairs:
            raise StepFailed(f"pairs: {pairs:,} rows of the sources are not in the table")


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
    with closing(_pairs(source, Counter())) as values:
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


def _batches(sources: Sequence[Source], left_out: Counter[str]) -> Iterator[pa.RecordBatch]:
    rows: list[tuple[Any, ...]] = []
    characters = 0
    for source in sources:
        for values in _pairs(source, left_out):
            rows.append(values)
            characters += sum(map(len, filter(None, (*values[1:5], values[9]))))
            if len(rows) == BATCH_ROWS or characters > BATCH_CHARACTERS:
                yield _batch(rows)
                rows, characters = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PAIRS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PAIRS)


def _pairs(source: Source, left_out: Counter[str]) -> Generator[tuple[Any, ...]]:
    """Yield the values of PAIRS of every row. What is no text is null there, and goes to ``meta``.

    ``left_out`` gets what of the source is no row, by reason.
    """
    name = source_name(source)
    roles = wanted_columns(source)
    taken = frozenset(roles.values()) - {roles.get("image")}
    roles = {role: column for role, column in roles.items() if role in ROLES}
    tally, number = Tally(), 0
    for number, row in enumerate(read_rows(source, tally), 1):  # noqa: B007
        yield _pair(name, source, roles, taken, row)
    _check_tally(name, tally, number)
    for counts in tally.files.values():
        left_out.update({f"not read, {reason}": count for reason, count in counts.left_out.items()})
    if survey := unread_files(source):
        left_out.update(survey)


def _check_tally(name: str, tally: Tally, rows: int) -> None:
    """Raise StepFailed where records are neither rows nor counted."""
    counted = sum(counts.rows for counts in tally.files.values())
    if faults := tally.faults():
        raise StepFailed(f"pairs: source {name!r}: {faults[0]}; please report it")
    if tally.files and counted != rows:
        raise StepFailed(
            f"pairs: source {name!r}: {rows:,} rows of {counted:,} came through; please report it"
        )


def uncaptioned_sources(sources: Sequence[Source]) -> frozenset[str]:
    """Return the names of the sources whose images have no captions."""
    return frozenset(source_name(source) for source in sources if not is_captioned(source))


def _pair(
    name: str, source: Source, roles: dict[str, str], taken: frozenset[str], row: Row
) -> tuple[Any, ...]:
    values, path, sample = row.values, row.path, row.sample
    rest = {key: value for key, value in values.items() if key not in taken}
    found: dict[str, Any] = {}
    for role, column in roles.items():
        value = values.get(column)
        found[role] = _weight(value) if role == "weight" else text_of(value)
        if found[role] is None and value is not None:
            rest[column] = value
    url, caption = found["url"], found.get("caption")
    weight = found["weight"] if isinstance(source.weight, Column) else source.weight
    licence = found["licence"] if isinstance(source.licence, Column) else source.licence or None
    meta = _json(rest) if rest else None
    if sample is not None:
        caption = caption or sample.caption
        url, path, main, more = _places_of(sample)
        local = not all(map(is_url, sample.places))
        what = (sample.task, sample.turns, str(main), *(more or ()))
        key = pair_key(url, caption, (name, path or "") if local else None, what)
        return key, url, caption, name, meta, weight, licence, path, sample.task, sample.turns, main, more
    # An image without a URL is known by its place, and what is no pair by all that it held: two broken rows
    # are not one row that comes twice.
    place = path if not url else None
    held = meta if path is None and (url is None or caption is None) else None
    known = place if place is not None else held
    key = pair_key(url, caption, (name, known) if known is not None else None)
    task = None if values.keys() & NO_PAIR else T2I
    return key, url, caption, name, meta, weight, licence, path, task, None, None, None


def _places_of(sample: SourceSample) -> tuple[str | None, str | None, int | None, list[str] | None]:
    """Return url, path, main and more of a sample, for `schema.PAIRS`."""
    if not sample.places:
        return None, None, None, None
    several = len(sample.places) > 1
    place, more = sample.places[sample.main], list(sample.places)
    del more[sample.main]
    url, path = (place, None) if is_url(place) else (None, place)
    return url, path, sample.main if several else None, more if several else None


def _weight(value: Any) -> float | None:
    """Return a weight above 0, else None. Files of text hold it as text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < math.inf else None


def _json(value: dict[str, Any]) -> str:
    try:
        return _ENCODE(_plain(value))
    except RecursionError:
        return _ENCODE({UNREADABLE: "values nested too deep"})


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if value is None or type(value) in (int, bool):
        return value
    if isinstance(value, dict):
        return {_plain_text(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # false for NaN too
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return _plain_text(str(value))


def _plain_text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
