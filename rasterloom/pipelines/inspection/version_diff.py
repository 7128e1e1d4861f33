"""Difference of two versions of a corpus, table by table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rasterloom.report.diff_page import Compared, compare_rows, write_difference
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.diff import Diff, diff

NAMED, SHOWN = 12, 24  # rows of each kind that are named, and that a page shows
BESIDE = 12  # that a page shows which shows more than rows
SEVERAL_ROWS = ("tokens", "captions")  # tables with several rows of an image


def compare(
    a: Corpus,
    b: Corpus,
    tables: tuple[str, ...] = (),
    page: Path | None = None,
    *,
    begin: Callable[[str], None] = lambda table: None,
) -> list[Diff]:
    """Compare tables of two versions, by default all.

    Args:
        page: file for galleries of what differs; none is written when None.
        begin: called with the name of each table before it is compared.
    """
    if not tables and (a.ref.isdecimal() or b.ref.isdecimal()):  # a snapshot is of one table
        tables = tuple(t for t in TABLES if None not in (a.snapshot_id(t), b.snapshot_id(t)))
    found = []
    for name in tables or TABLES:
        begin(name)
        found.append(diff(a, b, name, examples=SHOWN if page else NAMED))
    if page is not None:
        begin("images")
        write_difference(a, b, found, page)
    return found


def rows_differing(a: Corpus, b: Corpus, begin: Callable[[str], None] = lambda table: None) -> list[Compared]:
    """Differences of the tables of both versions, with images of some rows."""
    found = []
    for name in TABLES:
        if None not in (a.snapshot_id(name), b.snapshot_id(name)):
            begin(f"comparing {name}")
            found.append(diff(a, b, name, examples=BESIDE))
    begin("images")
    return [
        replace(one, galleries=()) if one.diff.table in SEVERAL_ROWS else one
        for one in compare_rows(a, b, found)
    ]
