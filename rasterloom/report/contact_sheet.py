"""Contact sheets: labelled rows of images on one image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from rasterloom.report.label_text import LINE, draw_text, text_width, wrapped

GAP, LABEL = 8, 22  # pixels; the label of one line
EMPTY = 200, GAP
WIDE = 480  # a label of a whole row may be so wide, also where its images are not
MOST_LINES = 5


@dataclass(frozen=True)
class Row:
    """Images side by side, each with a label above it. Without an image its label says why.

    A single label is that of the whole row, and may have several lines.
    """

    labels: tuple[str, ...]
    images: tuple[Image.Image | None, ...]


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw rows of images in columns as wide as their widest. Without rows the sheet is empty."""
    if not rows:
        return Image.new("RGB", EMPTY, "white")
    columns = max(len(row.images) for row in rows)
    widths = [max(_size(row, column)[0] for row in rows) for column in range(columns)]
    heights = [max(_size(row, column)[1] for column in range(columns)) for row in rows]
    across = sum(widths) + GAP * (columns - 1)
    labels = [_lines(row, max(across, WIDE)) for row in rows]
    above = [LABEL + LINE * (max(len(lines) for lines in of_row) - 1) for of_row in labels]
    of_whole_rows = [line for of_row in labels if len(of_row) == 1 for line in of_row[0]]
    wide = max([across, *(math.ceil(text_width(line)) for line in of_whole_rows)])
    sheet = Image.new("RGB", (wide, sum(heights) + sum(above) + GAP * len(rows)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for row, of_row, label, height in zip(rows, labels, above, heights, strict=True):
        left = 0
        for column, image in enumerate(row.images):
            for number, line in enumerate(of_row[column] if column < len(of_row) else ()):
                draw_text(pen, left, top + number * LINE, line)
            if image is not None:
                sheet.paste(image, (left, top + label))
            left += widths[column] + GAP
        top += label + height + GAP
    return sheet


def _lines(row: Row, across: int) -> list[list[str]]:
    """The lines of each of a row's labels: at least one, which may be empty."""
    if len(row.labels) == 1:
        return [wrapped(row.labels[0], across, MOST_LINES) or [""]]
    return [[label] for label in row.labels] or [[""]]


def _size(row: Row, column: int) -> tuple[int, int]:
    image = row.images[column] if column < len(row.images) else None
    return image.size if image is not None else (0, 0)
