"""Verdict of each part of the keep rule on one image."""

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from rasterloom import schema
from rasterloom.filtering.rule import columns_of, conjuncts_of, connect, first_line, passes, with_derived


@dataclass(frozen=True)
class Verdict:
    """A part of the rule, what it says (None: it cannot say), and what it was told.

    Where it cannot say, a row passes that has no image (``passes``), and no other.
    """

    part: str
    says: bool | None
    values: dict[str, Any]
    passes: bool = False
    error: str = ""


def verdicts(rule: str, image: pa.Table, scores: pa.Table) -> list[Verdict]:
    """Judge one image by each part of the rule.

    Args:
        image: one row of `schema.IMAGES`, without the image
        scores: one row of scores, or none
    """
    row = image.drop_columns([name for name in ("image", "thumbnail", "more") if name in image.column_names])
    for field in scores.schema:
        if field.name not in schema.SCORES.names:
            value = scores[field.name] if len(scores) else pa.nulls(1, field.type)
            row = row.append_column(field, value)
    found = []
    with connect() as connection:
        connection.register("source", row)
        for part in conjuncts_of(connection, rule):
            names = list(dict.fromkeys(name.lower() for name in columns_of(part)))
            quoted = ", ".join(f'"{name}"' for name in names)
            source = f"from ({with_derived('source')})"
            values = connection.execute(f"select {quoted} {source}").fetchone() if names else ()
            says, passed, error = None, False, ""
            query = f"select (\n{part}\n)::boolean, {passes(part)} {source}"
            try:
                says, passed = connection.execute(query).fetchone() or (None, False)
            except duckdb.Error as problem:
                error = first_line(problem)
            found.append(Verdict(part, says, dict(zip(names, values or (), strict=True)), passed, error))
    return found
