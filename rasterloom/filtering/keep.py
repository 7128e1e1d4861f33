"""The keep rule: which images are kept, and the reason of each that is not."""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rasterloom import recipe, schema
from rasterloom.filtering.duplicates import find_duplicates
from rasterloom.filtering.rule import (
    IMAGE_COLUMNS,
    check_rule,
    conjuncts_of,
    connect,
    first_line,
    with_derived,
)

__all__ = ["check_keep", "check_rule", "select"]

ORIGINAL_AREA = "coalesce(original_width::bigint * original_height, width::bigint * height)"


def check_keep(config: recipe.Keep, score_columns: Sequence[str]) -> None:
    """Check the rule and the preferred score of a recipe against the scores that it makes.

    Raises:
        ValueError: in one line, see `check_rule`
    """
    check_rule(config.rule, score_columns)
    if config.dedup.prefer and config.dedup.prefer not in score_columns:
        known = ", ".join(score_columns) or "none"
        raise ValueError(f"dedup.prefer names {config.dedup.prefer!r}, which is no score; known: {known}")


def select(images: pa.Table, scores: pa.Table, config: recipe.Keep) -> pa.Table:
    """Apply the keep rule, then drop duplicates among what it kept.

    A row whose image failed, or for which the rule is null, is not kept.

    Args:
        images: `schema.IMAGES`, without the column `image`
        scores: `schema.SCORES` and the scores; rows in any order, one for each key at most

    Returns:
        `schema.SELECTION`, a row for each row of `images`, in their order

    Raises:
        ValueError: the rule cannot be used, see `check_rule`, or fails on a row
    """
    score_columns = [name for name in scores.column_names if name not in schema.SCORES.names]
    check_keep(config, score_columns)
    verdict, rank, conjuncts = _judge(images, scores, score_columns, config)
    rows = np.flatnonzero(verdict == 0)
    double_of = np.arange(len(images))
    if config.dedup.exact or config.dedup.phash_radius is not None:
        passed = images.select(["key", "sha256", "phash", "thumbnail"]).take(pa.array(rows))
        kept = find_duplicates(
            passed["key"],
            passed["sha256"],
            passed["phash"],
            passed["thumbnail"],
            rank[rows],
            exact=config.dedup.exact,
            radius=config.dedup.phash_radius,
        )
        double_of[rows] = rows[kept]
    return _selection(images, verdict, conjuncts, double_of)


def _judge(
    images: pa.Table, scores: pa.Table, score_columns: list[str], config: recipe.Keep
) -> tuple[NDArray[np.int16], NDArray[np.float64], list[str]]:
    """Return a verdict and a rank for each row, and the conjuncts of the rule.

    A verdict is 0 for a row that passes, n for one that the n-th conjunct stops, -1 for a failed image. The
    rank is higher for what is rather kept of a group of duplicates.
    """
    with connect() as connection:
        conjuncts = conjuncts_of(connection, config.rule)
        preferred = f'"{config.dedup.prefer}"' if config.dedup.prefer else ORIGINAL_AREA
        connection.register("source", _join(images, scores, score_columns))
        cases = [
            f"when not coalesce((\n{part}\n)::boolean, false) then {number}"
            for number, part in enumerate(conjuncts, 1)
        ]
        query = f"""
            select (case when status is distinct from 'ok' then -1 {" ".join(cases)} else 0 end)::smallint,
                   ({preferred})::double
            from ({with_derived("source")})"""
        try:
            columns = connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            raise ValueError(f"the rule fails on a row: {first_line(error)}") from None
    verdict, rank = columns.values()
    return np.asarray(verdict), np.ma.filled(rank, np.nan), conjuncts


def _join(images: pa.Table, scores: pa.Table, score_columns: list[str]) -> pa.Table:
    """Return the columns that a rule may use; the score of an image without a row in `scores` is null."""
    table = images.select(IMAGE_COLUMNS)
    aligned = scores.select(score_columns)
    if not images["key"].equals(scores["key"]):
        aligned = aligned.take(pc.index_in(images["key"], scores["key"].combine_chunks()))
    for name in score_columns:
        table = table.append_column(name, aligned[name])
    return table


def _selection(
    images: pa.Table, verdict: NDArray[np.int16], conjuncts: list[str], double_of: NDArray[np.int64]
) -> pa.Table:
    """Spell out the reasons. A double of the same bytes as what is kept is exact."""
    kept = (verdict == 0) & (double_of == np.arange(len(images)))
    doubles = pa.array(np.flatnonzero((verdict == 0) & ~kept))
    originals = pa.array(double_of[doubles])
    same = pc.equal(images["sha256"].take(doubles), images["sha256"].take(originals))
    exact = np.zeros(len(images), bool)
    exact[doubles] = pc.fill_null(same, False).to_numpy()

    words = ["kept", "exact duplicate", "near duplicate"]
    words += [f"rule: {' '.join(part.split())}" for part in conjuncts]
    reason = np.select([verdict > 0, kept, exact], [verdict + 2, 0, 1], 2)
    duplicate_of = np.full(len(images), -1)
    duplicate_of[doubles] = originals
    failed = pa.array(verdict == -1)
    error = pc.binary_join_element_wise("failed", pc.fill_null(images["error"], "unknown"), ": ")
    reasons = pc.if_else(failed, error, pa.array(words).take(pa.array(reason)))
    return pa.table(
        [
            images["key"],
            images["shard"],
            pa.array(kept),
            reasons,
            images["key"].take(pa.array(duplicate_of, mask=duplicate_of < 0)),
        ],
        schema=schema.SELECTION,
    )
