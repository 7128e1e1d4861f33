"""README of an exported corpus: content, origin and licences."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom import __version__
from rasterloom.report.dataset_card import counts, front_matter, table
from rasterloom.report.queries import UNNAMED
from rasterloom.utils.redact import PAGE, as_json, safe
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import made

_HF_TYPES = {"double": "float64", "float": "float32", "large_string": "string"}


@dataclass
class Card:
    """Counts of the exported rows."""

    corpus: Corpus
    rows: int = 0
    bytes: int = 0
    images: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    sides: list[int] = field(default_factory=list)  # shorter sides, of a part of the rows
    schema: pa.Schema | None = None

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        self.images += len(rows["image"]) - rows["image"].null_count
        self.bytes += pc.sum(pc.binary_length(rows["image"])).as_py() or 0
        self.licences.update(value or UNNAMED for value in rows["licence"].to_pylist())
        self.sources.update(rows["source"].to_pylist())
        tasks = rows["task"].to_pylist() if "task" in rows.column_names else []
        self.tasks.update(task or "t2i" for task in tasks)
        if len(self.sides) < 100_000:
            self.sides += pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_pylist()
        self.schema = self.schema or rows.schema


def write_card(card: Card, folder: Path, form: str) -> None:
    """Write README.md with `datasets`' front matter, and export.json with the records."""
    versions = made(card.corpus)
    more: dict[str, object] = {}
    if form == "hf":
        more["configs"] = [{"config_name": "default", "data_files": "data/*.parquet"}]
        more["dataset_info"] = {"features": [_feature(f) for f in card.schema or ()]}
    lines = [
        front_matter(card.corpus.name, card.rows, card.licences, **more),
        f"# {card.corpus.name}",
        "",
        f"{card.rows:,} samples, {card.images:,} of them with images ({card.bytes / 1e6:,.1f} MB), "
        f"exported by Rasterloom {__version__} from `{card.corpus.name}@{card.corpus.ref}`.",
    ]
    if card.sides:
        sides = sorted(card.sides)
        middle, low, high = sides[len(sides) // 2], sides[len(sides) // 10], sides[-1 - len(sides) // 10]
        lines += ["", f"Shorter side in pixels: median {middle}, eight in ten between {low} and {high}."]
    lines += [""]
    for title, found in (("Licences", card.licences), ("Sources", card.sources), ("Tasks", card.tasks)):
        lines += counts(title, found, "samples")
    lines += ["## How it came about", ""]
    for version in versions:
        if version.table != "tokens":
            outcomes = Counter(version.record.counts).most_common()
            lines += [f"### {version.table}", "", *table(["outcome", "rows"], outcomes)]
    rule = next((v.record.config.get("rule") for v in versions if v.table == "selection"), None)
    lines += ["## The keep rule", "", "```sql", str(rule), "```", ""]
    (folder / "README.md").write_text(safe("\n".join(lines), PAGE), encoding="utf-8")
    records = {v.table: {"snapshot": v.snapshot_id, **v.record.__dict__} for v in versions}
    (folder / "export.json").write_text(as_json(records, indent=1), encoding="utf-8")


def _feature(column: pa.Field) -> dict[str, object]:
    if column.name == "image":
        return {"name": "image", "dtype": "image"}
    if column.name == "more":
        return {"name": "more", "list": "image"}
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return {"name": column.name, "list": _type(column.type.value_type)}
    return {"name": column.name, "dtype": _type(column.type)}


def _type(given: pa.DataType) -> str:
    return _HF_TYPES.get(str(given), str(given))
