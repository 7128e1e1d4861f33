"""Dropped pairs, with their reasons."""

from dataclasses import dataclass
from typing import Any

import duckdb

from rasterloom.errors import RecipeError
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import output_files
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import ErrorClass, StepKind
from rasterloom.utils.redact import HOST_SQL
from rasterloom.utils.suggest import did_you_mean

SHOWN = 20  # reasons or hosts in a message


@dataclass(frozen=True)
class FailedPair:
    """Pair dropped by fetching, rule, deduplication or tokenization."""

    key: str
    url: str | None
    path: str | None  # where a local image lies in its source
    caption: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class FailedGroup:
    """Dropped pairs of one reason or host, with an example."""

    name: str
    pairs: int
    mostly: str  # the most frequent of the other kind, with its number
    place: str | None  # URL or path of the example
    detail: str


def failures(
    recipe: Recipe, reason: str | None = None, host: str | None = None, limit: int | None = None
) -> list[FailedPair]:
    """List the pairs dropped, sorted by reason, URL and path.

    Args:
        reason: only those of this reason; a bare class of error stands for its failures.
        host: only those of this host, ``example.org`` or ``example.org:8080``.
    """
    rows = _query(
        recipe,
        f"""SELECT key, url, path, caption, reason, detail FROM dropped
        WHERE ($reason IS NULL OR reason IN ($reason, 'failed: ' || $reason))
          AND ($host IS NULL OR lower({HOST_SQL}) = lower($host))
        ORDER BY reason, url, path, key LIMIT {limit if limit is not None else "ALL"}""",
        {"reason": reason, "host": host},
    )
    return [FailedPair(**row) for row in rows]


def nothing_of(recipe: Recipe, reason: str | None, host: str | None) -> str:
    """Sentence about a reason or a host for which nothing was dropped.

    Raises:
        RecipeError: there is no such reason; the message names those that there are.
    """
    if reason is not None and reason not in (*ErrorClass, *(f"failed: {one}" for one in ErrorClass)):
        there = [group.name.removeprefix("failed: ") for group in summary(recipe, "reason")]
        if reason not in there:
            known = did_you_mean(reason, there[:SHOWN] or ErrorClass)
            raise RecipeError(f"no such reason; {known}", field="reason", value=reason)
    of_host, for_reason = (f" of {host}" if host else ""), (f" for {reason}" if reason else "")
    return f"No pair{of_host} was dropped{for_reason}."


def summary(recipe: Recipe, by: str) -> list[FailedGroup]:
    """Count dropped pairs by ``reason`` or by ``host``, the most frequent first."""
    name, other = ("reason", "host") if by == "reason" else ("host", "reason")
    rows = _query(
        recipe,
        f"""WITH d AS (SELECT reason, coalesce({HOST_SQL}, '') AS host,
                          {{'place': coalesce(url, path), 'detail': detail}} AS one FROM dropped),
        each AS (SELECT {name} AS name, {other} AS other, count(*) AS n, min(one) AS one FROM d GROUP BY ALL)
        SELECT name, sum(n)::BIGINT AS pairs, max_by(other, n) AS other, max(n) AS most,
               max_by(one, n) AS one
        FROM each GROUP BY name ORDER BY pairs DESC, name""",
    )
    return [
        FailedGroup(
            row["name"],
            row["pairs"],
            f"{row['other']} ({row['most']:,})" if row["other"] else "",
            row["one"]["place"],
            row["one"]["detail"],
        )
        for row in rows
    ]


def _query(recipe: Recipe, sql: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Run a query on ``dropped``: key, url, path, caption, reason, detail. No image is read."""
    workflow = Workflow(recipe)
    corpus = workflow.corpus
    done = {s.name: output_files(corpus, s) for s in workflow.corpus_steps if workflow.status(s).done}
    if "images" not in done:
        return []
    with duckdb.connect() as connection:
        kinds = (StepKind.PAIRS, StepKind.IMAGES, StepKind.SELECTION, StepKind.CODES)
        used = [n for n, files in done.items() if files and StepKind.of(n) in kinds]
        for name in used:
            connection.register(name, corpus.dataset([f.name for f in done[name]]))
        connection.execute("CREATE TEMP VIEW dropped AS " + " UNION ALL ".join(_dropped(used)))
        cursor = connection.execute(sql, values or {})
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _dropped(done: list[str]) -> list[str]:
    if "selection" not in done:
        return [
            """SELECT i.key, i.url, p.path, i.caption, 'failed: ' || i.error AS reason,
                      coalesce(i.detail, '') AS detail
            FROM images i LEFT JOIN pairs p USING (key) WHERE i.status = 'failed'"""
        ]
    parts = [
        """SELECT i.key, i.url, p.path, i.caption, s.reason,
               coalesce('of ' || coalesce(t.url, t.path), i.detail, '') AS detail
        FROM selection s JOIN images i USING (key) LEFT JOIN pairs p USING (key)
        LEFT JOIN pairs t ON t.key = s.duplicate_of WHERE NOT s.kept"""
    ]
    for name in done:
        if StepKind.of(name) is StepKind.CODES:
            parts.append(
                f"""SELECT i.key, i.url, p.path, i.caption, 'failed: {name}' AS reason, c.error AS detail
                FROM "{name}" c JOIN images i USING (key) LEFT JOIN pairs p USING (key)
                WHERE c.error IS NOT NULL"""
            )
    return parts
