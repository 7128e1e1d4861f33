"""Samples of failed pairs, by error class."""

from dataclasses import dataclass

from rasterloom.report.gallery import SEED
from rasterloom.report.queries import Tables
from rasterloom.sources import failure
from rasterloom.utils import formatting
from rasterloom.utils.redact import HOST_SQL

SHOWN = 8  # of each class


@dataclass(frozen=True)
class FailureSample:
    """Pair without an image: cleaned text of unknown origin, to be escaped."""

    url: str
    host: str
    detail: str
    caption: str
    attempts: int


@dataclass(frozen=True)
class FailureGroup:
    """Failed pairs of one error class, with a sample."""

    error: str
    meaning: str
    rows: int
    hosts: int
    sample: tuple[FailureSample, ...]


def failures(tables: Tables) -> list[FailureGroup]:
    """Failed pairs by error class, the most frequent first."""
    if not tables.has("images"):
        return []
    groups = tables.sql(
        f"""
        WITH f AS (SELECT key, coalesce(error, 'unknown') AS error, url, detail, caption, attempts,
                     {HOST_SQL} AS host
                   FROM images WHERE status <> 'ok')
        SELECT error, count(*) AS rows, count(DISTINCT nullif(host, '')) AS hosts,
               min_by({{'url': url, 'host': host, 'detail': detail,
                       'caption': caption, 'attempts': attempts}}, md5(key || '{SEED}'), {SHOWN}) AS sample
        FROM f GROUP BY error ORDER BY rows DESC, error
        """
    )
    return [
        FailureGroup(
            g["error"], failure.error(g["error"]), g["rows"], g["hosts"], tuple(map(_failure, g["sample"]))
        )
        for g in groups
    ]


def _failure(row: dict[str, str | int | None]) -> FailureSample:
    names = ("url", "host", "detail", "caption")
    text = {name: formatting.plain(str(row[name] or "")) for name in names}
    return FailureSample(**text, attempts=int(row["attempts"] or 0))
