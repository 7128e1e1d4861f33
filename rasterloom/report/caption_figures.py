"""Figures of the table ``captions``: what each captioner gave, and what the checks found."""

from dataclasses import dataclass

from rasterloom.report.queries import Tables
from rasterloom.sources import failure

CHECKS = ("refusal", "boilerplate", "echo", "names_model")


@dataclass(frozen=True)
class CaptionFigures:
    """Captions of one name."""

    captioner: str
    name: str
    captions: int
    images: int
    words: float | None
    """Median of the words of a caption."""
    repetition: float | None
    """Share of captions with a repetition of 0.4 or more."""
    checks: dict[str, int]
    """Captions by what a check found."""
    failed: dict[str, int]
    """Failed rows by class, in words."""
    languages: dict[str, int]
    tokens: int
    usd: float


def caption_figures(tables: Tables) -> list[CaptionFigures]:
    """Figures of each captioner and name, in the order of their names."""
    if not tables.has("captions"):
        return []
    counted = ", ".join(f"count(*) FILTER ({name}) AS {name}" for name in CHECKS)
    rows = tables.sql(
        f"""
        SELECT captioner, name, count(caption) AS captions, count(DISTINCT key) AS images,
          median(words) AS words, count(*) FILTER (repetition >= 0.4) AS repeats, {counted},
          coalesce(sum(tokens_in), 0)::BIGINT + coalesce(sum(tokens_out), 0)::BIGINT AS tokens,
          coalesce(sum(usd), 0)::DOUBLE AS usd
        FROM captions GROUP BY captioner, name ORDER BY captioner, name
        """
    )
    failed = _counts(tables, "error")
    languages = _counts(tables, "language")
    return [
        CaptionFigures(
            row["captioner"],
            row["name"],
            row["captions"],
            row["images"],
            row["words"],
            row["repeats"] / row["captions"] if row["captions"] else None,
            {name: row[name] for name in CHECKS if row[name]},
            {
                failure.error(name): rows
                for name, rows in failed.get((row["captioner"], row["name"]), {}).items()
            },
            dict(list(languages.get((row["captioner"], row["name"]), {}).items())[:5]),
            row["tokens"],
            row["usd"],
        )
        for row in rows
    ]


def _counts(tables: Tables, column: str) -> dict[tuple[str, str], dict[str, int]]:
    """Rows of each name by values of a column."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in tables.sql(
        f"""
        SELECT captioner, name, {column} AS value, count(*) AS rows FROM captions
        WHERE {column} IS NOT NULL GROUP BY ALL ORDER BY rows DESC, value
        """
    ):
        found.setdefault((row["captioner"], row["name"]), {})[row["value"]] = row["rows"]
    return found
