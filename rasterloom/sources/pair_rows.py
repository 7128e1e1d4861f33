"""Rows of the table of pairs, made of what readers give."""

import json
import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pyarrow as pa

from rasterloom.errors import StepFailed
from rasterloom.recipe.sources import Column, Source
from rasterloom.schema import PAIRS, T2I, pair_key
from rasterloom.sources.readers.registry import read_rows, source_name, unread_files
from rasterloom.sources.readers.row import (
    BATCH_ROWS,
    NO_PAIR,
    UNREADABLE,
    Row,
    SourceSample,
    wanted_columns,
)
from rasterloom.sources.readers.tally import Tally
from rasterloom.sources.readers.tasks import is_url, text_of

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
ROLES = ("url", "caption", "weight", "licence")  # of columns whose values stand in the table as they are
BATCH_CHARACTERS = 100_000_000  # of a batch of rows, however few; Arrow ends at 2 GB


def pair_batches(
    sources: Sequence[Source], left_out: Counter[str], names: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``schema.PAIRS`` of all sources. ``left_out`` gets what is no row, by reason.

    Args:
        names: files of the only source, where not all are to be read; what else lies there is not told.
    """
    rows: list[tuple[Any, ...]] = []
    characters = 0
    for source in sources:
        for values in pair_values(source, left_out, names):
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


def pair_values(
    source: Source, left_out: Counter[str], names: Sequence[str] | None = None
) -> Generator[tuple[Any, ...]]:
    """Yield the values of PAIRS of every row. What is no text is null there, and goes to ``meta``.

    ``left_out`` gets what of the source is no row, by reason.
    """
    name = source_name(source)
    roles = wanted_columns(source)
    taken = frozenset(roles.values()) - {roles.get("image")}
    roles = {role: column for role, column in roles.items() if role in ROLES}
    tally, number = Tally(), 0
    for number, row in enumerate(read_rows(source, tally, names), 1):  # noqa: B007
        yield _pair(name, source, roles, taken, row)
    _check_tally(name, tally, number)
    for counts in tally.files.values():
        left_out.update({f"not read, {reason}": count for reason, count in counts.left_out.items()})
    if names is None and (survey := unread_files(source)):
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
