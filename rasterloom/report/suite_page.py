"""Page of a suite's images, of several checkpoints side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from rasterloom import __version__
from rasterloom.report.gallery import GalleryImage, gallery_image
from rasterloom.report.report_page import environment, styles
from rasterloom.utils import formatting
from rasterloom.utils.intervals import mean_interval

PROMPTS = 240  # shown at most, so that a browser can show the page
LONGEST = 128  # pixels


@dataclass(frozen=True)
class Figure:
    """Mean of a judge's scores, with its 95 % interval.

    It is of a skill, or of the images as wholes.
    """

    judge: str
    name: str
    mean: float
    low: float
    high: float
    count: int
    is_whole: bool

    @property
    def text(self) -> str:
        """The mean with its interval, in percent where it is a share."""
        if 0 <= self.low <= self.high <= 1 and self.judge in SHARES:
            return f"{100 * self.mean:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


SHARES = ("scene", "vqa")  # judges whose scores are shares or probabilities


@dataclass(frozen=True)
class Judged:
    """A checkpoint's images of a suite, and their figures."""

    name: str
    rows: pa.Table
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class SuiteRow:
    """One prompt with the images of each checkpoint, right or wrong."""

    prompt: str
    category: str
    images: tuple[tuple[tuple[GalleryImage, bool], ...], ...]


def figures_of(rows: pa.Table) -> tuple[Figure, ...]:
    """Means of each judge, of the images as wholes first."""
    values: dict[tuple[str, str, bool], list[float]] = {}
    for row in rows.select(["totals", "marks"]).to_pylist():
        for column, whole in (("totals", True), ("marks", False)):
            for mark in row[column] or ():
                values.setdefault((mark["judge"], mark["skill"], whole), []).append(mark["score"])
    ordered = sorted(values.items(), key=lambda item: not item[0][2])
    return tuple(
        Figure(judge, name, sum(of) / len(of), *mean_interval(of), len(of), whole)
        for (judge, name, whole), of in ordered
    )


def suite_page(corpus: str, suite: str, note: str, checkpoints: Sequence[Judged]) -> str:
    """Render the page as one HTML text."""
    names = list(dict.fromkeys((f.judge, f.name, f.is_whole) for c in checkpoints for f in c.figures))
    of = [{(f.judge, f.name, f.is_whole): f for f in c.figures} for c in checkpoints]
    figures = [(key[0], key[1], [found.get(key) for found in of]) for key in names]
    rows, left_out = _rows(checkpoints)
    return (
        environment()
        .get_template("suite.html")
        .render(
            corpus=corpus,
            suite=suite,
            note=note,
            names=[formatting.plain(one.name) for one in checkpoints],
            figures=figures,
            rows=rows,
            left_out=left_out,
            styles=styles(),
            version=__version__,
        )
    )


def _rows(checkpoints: Sequence[Judged]) -> tuple[list[SuiteRow], int]:
    """Prompts that a page shows, and the number left out."""
    by_number: list[dict[int, list[dict[str, Any]]]] = []
    for checkpoint in checkpoints:
        found: dict[int, list[dict[str, Any]]] = {}
        for row in checkpoint.rows.sort_by([("number", "ascending"), ("seed", "ascending")]).to_pylist():
            found.setdefault(row["number"], []).append(row)
        by_number.append(found)
    numbers = sorted({number for found in by_number for number in found})
    shown = []
    for number in numbers[:PROMPTS]:
        (first, *_) = (row for found in by_number for row in found.get(number, ()))
        images = tuple(tuple(map(_image, found.get(number, ()))) for found in by_number)
        shown.append(SuiteRow(formatting.plain(first["prompt"]), formatting.plain(first["category"]), images))
    return shown, max(0, len(numbers) - PROMPTS)


def _image(row: dict[str, Any]) -> tuple[GalleryImage, bool]:
    totals = [f"{mark['skill']} {_short(mark)}" for mark in row["totals"] or ()]
    wrong = [mark["question"] or mark["skill"] for mark in row["marks"] or () if mark["score"] < 0.5]
    notes = [f"seed {row['seed']}", *totals, *(f"not: {name}" for name in wrong)]
    notes += [f"{judge}: {note}" for judge, note in row["notes"] or ()]
    with Image.open(io.BytesIO(row["image"])) as image:
        shown = gallery_image(image, row["prompt"], tuple(map(formatting.plain, notes)), LONGEST)
        return shown, bool(wrong)


def _short(mark: dict[str, Any]) -> str:
    if mark["score"] in (0, 1) and mark["judge"] == "scene":
        return "right" if mark["score"] else "wrong"
    return f"{mark['score']:.2f}"
