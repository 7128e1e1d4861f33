"""Rule on captions: one SQL expression over the columns of their checks, by DuckDB."""

import duckdb
import pyarrow as pa

from rasterloom.filtering.rule import connect, first_line
from rasterloom.schema import CAPTIONS
from rasterloom.utils.suggest import did_you_mean

KNOWN = (
    "refusal",
    "boilerplate",
    "echo",
    "names_model",
    "repetition",
    "words",
    "language",
    "caption",
    "captioner",
    "name",
)


def check_caption_rule(rule: str) -> None:
    """Check that a rule is one boolean SQL expression over ``KNOWN``.

    Raises:
        ValueError: in one line.
    """
    none = pa.table({name: pa.nulls(1, CAPTIONS.field(name).type) for name in KNOWN})
    with connect() as connection:
        connection.register("captions", none)
        try:
            connection.execute(f"select 1 from captions where (\n{rule}\n)")  # refuses aggregates
            described = connection.execute(f"describe select (\n{rule}\n) from captions").fetchall()
        except duckdb.Error as error:
            text = first_line(error)
            unknown = text.partition('column "')[2].partition('"')[0]
            hint = f"; {did_you_mean(unknown, KNOWN, 'there are ')}" if unknown else ""
            raise ValueError(f"the rule cannot be used: {text}{hint}") from None
    if len(described) != 1 or described[0][1] not in ("BOOLEAN", '"NULL"'):
        raise ValueError(f"the rule gives {described[0][1]}, not true or false: compare it with something")


def passing(captions: pa.Table, rule: str) -> pa.Table:
    """Rows of ``schema.CAPTIONS`` that pass a rule, in their order. What cannot say (null) counts as no."""
    numbered = captions.select(list(KNOWN)).append_column("n", pa.array(range(len(captions)), pa.int64()))
    with connect() as connection:
        connection.register("captions", numbered)
        found = connection.execute(f"select n from captions where (\n{rule}\n) order by n").fetchall()
    return captions.take(pa.array([n for (n,) in found], pa.int64()))
