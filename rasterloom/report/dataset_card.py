"""Dataset card in Hugging Face's format: Markdown with YAML front matter."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from rasterloom import __version__
from rasterloom.report import queries
from rasterloom.report.queries import UNNAMED
from rasterloom.report.training_runs import Stage
from rasterloom.utils import formatting
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

# The Hub's own words: https://huggingface.co/docs/hub/repositories-licenses, and `size_categories` of
# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
LICENCES = {
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "odbl", "pddl"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "unlicense", "wtfpl"),
}
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def front_matter(name: str, rows: int, licences: Iterable[str], **more: Any) -> str:
    """YAML front matter with the Hub's tags."""
    found = sorted({licence(one) for one in licences}) or ["unknown"]
    front: dict[str, Any] = {
        "pretty_name": name,
        "license": found[0] if len(found) == 1 else found,
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(rows)],
        "tags": ["rasterloom", "image-text"],
    }
    return f"---\n{yaml.safe_dump(front | more, sort_keys=False, allow_unicode=True)}---\n"


def licence(text: str) -> str:
    """Licence in the Hub's terms. ``unknown`` where a source has none, else ``other``."""
    name = "-".join(text.lower().replace("_", " ").replace("/", " ").split())
    if name in ("", "unknown") or text == UNNAMED:
        return "unknown"
    return name if name in LICENCES else "other"


def size_category(rows: int) -> str:
    """Size category such as ``1K<n<10K``."""
    steps = [1000 * 10**i for i in range(len(SIZES))]
    if rows < steps[0]:
        return "n<1K"
    below = sum(rows >= step for step in steps)
    return f"n>{SIZES[-1]}" if below == len(SIZES) else f"{SIZES[below - 1]}<n<{SIZES[below]}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown table with escaped cells."""
    lines = [headers, ["---"] * len(headers), *rows]
    return [*("| " + " | ".join(map(cell, line)) + " |" for line in lines), ""]


def cell(value: object) -> str:
    text = formatting.plain(f"{value:,}" if isinstance(value, int) else str(value))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def counts(title: str, found: Mapping[str, int], of: str) -> list[str]:
    """Section with counts of values, the most frequent first."""
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [f"## {title}", "", *table(["", of], most)]


def data_card(
    tables: queries.Tables,
    records: Sequence[Record],
    levels: Sequence[queries.Level],
    stages: Sequence[Stage],
    recipe_text: str,
) -> str:
    """Dataset card of a corpus."""
    corpus, origin = tables.corpus, queries.origins(tables)
    kept = next((level.rows for level in levels if level.name == "kept"), levels[-1].rows if levels else 0)
    lines = [
        f"# {corpus.name}",
        "",
        f"{kept:,} captioned images, kept of {levels[0].rows if levels else 0:,} pairs. "
        f"This card and [the report](index.html) were written by Rasterloom {__version__}.",
        "",
        *_versions(corpus, tables.snapshots, records),
    ]
    if levels:
        lines += ["## What became of every pair", "", *table(["", "rows"], _outcomes(levels))]
    values = queries.quantiles(tables)
    if values:
        figures = [(name, *map(formatting.figure, of)) for name, of in values.items()]
        lines += [
            "## Scores of what is kept",
            "",
            *table(["", "lowest tenth", "median", "highest tenth"], figures),
        ]
    tokens = queries.token_counts(tables)
    if tokens:
        names = ("target", "sequences", "tokens", "shortest", "middle", "longest", "buckets")
        counted = [[int(row[name]) for name in names] for row in tokens]
        lines += [
            "## Tokens",
            "",
            *table(["target", "sequences", "tokens", "shortest", "median", "longest", "buckets"], counted),
        ]
    lines += counts("Licences", origin["licence"], "kept") if origin["licence"] else []
    lines += counts("Sources", origin["source"], "kept") if origin["source"] else []
    if stages:
        trained = [(s.name, s.last_step, _loss(s)) for s in stages]
        lines += ["## Trained on it", "", *table(["stage", "steps", "held-out loss"], trained)]
    lines += ["## Recipe", "", "```yaml", recipe_text.strip().replace("```", "'''"), "```", ""]
    lines += ["Licences and captions are those that the sources state; neither was checked.", ""]
    return front_matter(corpus.name, kept, origin["licence"]) + "\n" + "\n".join(lines)


def _versions(corpus: Corpus, snapshots: Mapping[str, int], records: Sequence[Record]) -> list[str]:
    digests = ", ".join(dict.fromkeys(f"`{record.recipe}`" for record in records if record.recipe))
    sentence = f"Version `{corpus.name}@{corpus.ref}`" + (
        f", made by the recipe {digests}." if digests else "."
    )
    rows = [(name, str(snapshot)) for name, snapshot in snapshots.items()]
    return ["## Version", "", sentence, "", *table(["table", "snapshot"], rows)]


def _outcomes(levels: Sequence[queries.Level]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for level in levels:
        found.append((f"**{level.name}**", level.rows))
        found += [(f"lost: {loss.meaning or loss.reason}", loss.rows) for loss in level.losses]
    return found


def _loss(stage: Stage) -> str:
    return "–" if stage.heldout_loss is None else formatting.figure(stage.heldout_loss)
