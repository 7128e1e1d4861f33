"""Filters of images: from the parameters of an address to SQL, and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from rasterloom.errors import RecipeError
from rasterloom.filtering.rule import check_rule, conjuncts_of, connect, verdict_of
from rasterloom.report.queries import quoted
from rasterloom.serve.index import Index
from rasterloom.utils.suggest import did_you_mean

PAGE = 60  # images
KINDS = {  # of reasons, as one choice
    "kept": ("kept", "_kept"),
    "failed": ("all that failed", "starts_with(_reason, 'failed: ')"),
    "rule": ("all that a rule stopped", "starts_with(_reason, 'rule: ')"),
    "duplicate": ("all duplicates", "_duplicate_of IS NOT NULL"),
}
TEXTS = ("text", "source", "reason", "bucket", "group", "near", "passes", "fails")
SHOWN = (
    *("_place", "key", "caption", "status", "error", "_reason", "_duplicate_of", "_copies", "task"),
    *("original_width", "original_height"),
)


@dataclass(frozen=True)
class Filters:
    """Filters of images; an empty one lets everything through."""

    text: str = ""  # in the caption, in any case of letters
    source: str = ""
    reason: str = ""  # one of `KINDS`, or the whole reason
    bucket: str = ""  # "512: 640x384"
    group: str = ""  # key of the image that a group of duplicates is kept as
    near: str = ""  # key of the image whose nearest are shown, by their embeddings
    passes: str = ""  # keep rule that they pass
    fails: str = ""  # keep rule that stops them
    bounds: tuple[tuple[str, float | None, float | None], ...] = ()  # column, least, greatest

    @classmethod
    def of(cls, parameters: Mapping[str, str], index: Index) -> "Filters":
        """Read an address's parameters; ``min.quality`` and ``max.quality`` are bounds.

        Raises:
            RecipeError: a bound is no number or of no column, or a rule cannot be used.
        """
        texts: dict[str, Any] = {name: parameters.get(name, "").strip() for name in TEXTS}
        given = cls(**texts)
        for rule in filter(None, (given.passes, given.fails)):
            check(rule, index)
        bounds: dict[str, dict[str, float]] = {}
        for name, value in parameters.items():
            end, dot, column = name.partition(".")
            if dot and end in ("min", "max") and value.strip():
                bounds.setdefault(_column(column, index), {})[end] = _number(name, value)
        ends = ((name, found.get("min"), found.get("max")) for name, found in bounds.items())
        return replace(given, bounds=tuple(ends))

    def parameters(self) -> dict[str, str]:
        """Parameters of the address that shows the same."""
        found = {name: getattr(self, name) for name in TEXTS}
        for name, low, high in self.bounds:
            found |= {f"min.{name}": _text(low), f"max.{name}": _text(high)}
        return {name: value for name, value in found.items() if value}

    def address(self, **more: object) -> str:
        """Address of the page, with further parameters."""
        return "/images?" + urlencode({**self.parameters(), **{k: v for k, v in more.items() if v != ""}})

    def where(self) -> tuple[str, list[Any]]:
        """SQL condition on ``entries``, and its parameters."""
        parts: list[str] = []
        values: list[Any] = []
        for condition, value in (
            ("contains(lower(caption), lower(?))", self.text),
            ("_source = ?", self.source),
            ("list_contains(_buckets, ?)", self.bucket),
            ("coalesce(_duplicate_of, key) = ?", self.group),
            ("_reason = ?", "" if self.reason in KINDS else self.reason),
        ):
            if value:
                parts.append(condition)
                values.append(value)
        if self.reason in KINDS:
            parts.append(KINDS[self.reason][1])
        for name, low, high in self.bounds:
            for sign, end in ((">=", low), ("<=", high)):
                if end is not None:
                    parts.append(f"{quoted(name)} {sign} ?")
                    values.append(end)
        for rule, verdict in ((self.passes, "= 0"), (self.fails, "> 0")):
            if rule:
                parts.append(f"{verdict_of(parts_of(rule))} {verdict}")
        return " AND ".join(f"({part})" for part in parts) or "TRUE", values


@dataclass(frozen=True)
class Found:
    """Images of a page. ``after`` is where the next one begins."""

    rows: list[dict[str, Any]]
    in_all: int
    after: int | None = None


def find(index: Index, filters: Filters, after: int | None = None) -> Found:
    """Return a page of images, in the corpus's order or nearest first.

    Args:
        after: place of the last image of the page before
    """
    where, values = filters.where()
    in_all = int(index.sql(f"SELECT count(*) AS n FROM entries WHERE {where}", *values)[0]["n"])
    columns = ", ".join([*SHOWN, *map(quoted, index.scores)])
    if filters.near:
        return Found(_nearest(index, filters.near, columns, where, values), in_all)
    begin = -1 if after is None else after
    query = f"SELECT {columns} FROM entries WHERE _place > ? AND {where} ORDER BY _place LIMIT {PAGE + 1}"
    rows = index.sql(query, begin, *values)
    return Found(rows[:PAGE], in_all, rows[PAGE - 1]["_place"] if len(rows) > PAGE else None)


def _nearest(index: Index, key: str, columns: str, where: str, values: list[Any]) -> list[dict[str, Any]]:
    """Rows with ``_cosine``, that of two embeddings."""
    if not index.embedded:
        return []
    return index.sql(
        f"""WITH one AS (SELECT embedding FROM browse.embeddings JOIN entries USING (_place) WHERE key = ?)
        SELECT {columns}, array_cosine_similarity(b.embedding, (SELECT embedding FROM one)) AS _cosine
        FROM browse.embeddings b JOIN (SELECT * FROM entries WHERE {where}) USING (_place)
        WHERE isfinite(_cosine) ORDER BY _cosine DESC, _place LIMIT {PAGE}""",
        key,
        *values,
    )


def check(rule: str, index: Index) -> None:
    """Raise RecipeError if a keep rule cannot be used on the index."""
    try:
        check_rule(rule, index.columns)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def parts_of(rule: str) -> list[str]:
    """Parts of a keep rule, which all must be true."""
    with connect() as connection:
        return conjuncts_of(connection, rule)


def _column(name: str, index: Index) -> str:
    if name not in index.bounds:
        raise RecipeError(f"no such column of numbers; {did_you_mean(name, index.bounds)}", value=name)
    return name


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"{name} takes a number, not {text}")
    return number


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.12g}"
