"""Page on two versions' differences, with sample images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rasterloom import __version__
from rasterloom.report.gallery import Gallery, GalleryImage, images_of, read_rows
from rasterloom.report.queries import Tables
from rasterloom.report.report_page import environment, styles
from rasterloom.utils import formatting
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.diff import KEYS, UNREAD, Diff

TITLES = {"added": "only in B", "removed": "only in A", "changed": "in both, with other values"}
LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class Compared:
    """Difference of a table, with galleries of added, removed and changed rows."""

    diff: Diff
    galleries: tuple[Gallery, ...]


def write_difference(a: Corpus, b: Corpus, found: Sequence[Diff], out: Path) -> None:
    """Write a self-contained HTML file.

    Args:
        found: the differences of tables from version A to version B, whose examples are shown.
    """
    compared = compare_rows(a, b, found)
    page = environment().get_template("difference.html")
    text = page.render(
        corpus=b.name, a=a.ref, b=b.ref, compared=compared, styles=styles(), version=__version__
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def compare_rows(a: Corpus, b: Corpus, found: Sequence[Diff]) -> list[Compared]:
    """Galleries of the examples of differences from version A to version B."""
    with _tables(a) as of_a, _tables(b) as of_b:
        images_a = _images(of_a, {key for d in found for key in d.examples["removed"]})
        kept_b = {key for d in found for kind in ("added", "changed") for key in d.examples[kind]}
        images_b = _images(of_b, kept_b)
        return [Compared(d, _galleries(d, of_a, of_b, images_a, images_b)) for d in found]


def _tables(corpus: Corpus) -> Tables:
    snapshots = {name: corpus.snapshot_id(name) for name in TABLES}
    return Tables(corpus, {name: snapshot for name, snapshot in snapshots.items() if snapshot is not None})


def _images(tables: Tables, keys: set[str]) -> dict[str, GalleryImage]:
    return images_of(tables, keys) if tables.has("images") else {}


def _galleries(
    diff: Diff, a: Tables, b: Tables, images_a: dict[str, GalleryImage], images_b: dict[str, GalleryImage]
) -> tuple[Gallery, ...]:
    changes = _changes(diff, a, b)
    found = []
    for kind, rows in (("added", diff.added), ("removed", diff.removed), ("changed", diff.changed)):
        images = images_a if kind == "removed" else images_b
        shown = (images.get(key, GalleryImage("", key)) for key in diff.examples[kind])
        if kind == "changed":
            keys = diff.examples[kind]
            shown = (replace(p, notes=changes.get(key, ())) for key, p in zip(keys, shown, strict=True))
        if rows:
            found.append(Gallery(TITLES[kind], rows, kind != "removed", tuple(shown)))
    return tuple(found)


def _changes(diff: Diff, a: Tables, b: Tables) -> dict[str, tuple[str, ...]]:
    """Changed values of each example by key, such as ``kept: true → false``."""
    keys = diff.examples["changed"]
    if not keys:
        return {}
    more = [name for name in KEYS.get(diff.table, ()) if name != "key"]
    columns = [name for name in diff.columns if name not in UNREAD]
    rows: list[dict[tuple[Any, ...], dict[str, Any]]] = []
    for tables in (a, b):
        read = read_rows(tables, diff.table, keys, [*more, *columns])
        rows.append({tuple(row[name] for name in ("key", *more)): row for row in read})
    found: dict[str, tuple[str, ...]] = {}
    for identity, before in rows[0].items():
        after = rows[1].get(identity, before)
        changes = tuple(
            f"{name}: {_word(before[name])} → {_word(after[name])}"
            for name in columns
            if before[name] != after[name]
        )
        found[identity[0]] = found.get(identity[0], ()) + changes
    return found


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} values"
    if isinstance(value, float):
        return formatting.figure(value)
    text = "none" if value is None else formatting.plain(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
