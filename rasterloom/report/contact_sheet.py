"""Contact sheets: labelled rows of images on one image."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP, LABEL = 8, 22  # pixels
EMPTY = 200, GAP


@dataclass(frozen=True)
class Row:
    """Images side by side, each with a label above it. Without an image its label says why."""

    labels: tuple[str, ...]
    images: tuple[Image.Image | None, ...]


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw rows of images in columns as wide as their widest. Without rows the sheet is empty."""
    if not rows:
        return Image.new("RGB", EMPTY, "white")
    columns = max(len(row.images) for row in rows)
    widths = [max(_size(row, column)[0] for row in rows) for column in range(columns)]
    heights = [max(_size(row, column)[1] for column in range(columns)) for row in rows]
    size = sum(widths) + GAP * (columns - 1), sum(heights) + (LABEL + GAP) * len(rows)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for column, image in enumerate(row.images):
            if column < len(row.labels):
                pen.text((left, top), row.labels[column], fill="black", font=font)
            if image is not None:
                sheet.paste(image, (left, top + LABEL))
            left += widths[column] + GAP
        top += LABEL + height + GAP
    return sheet


def _size(row: Row, column: int) -> tuple[int, int]:
    image = row.images[column] if column < len(row.images) else None
    return image.size if image is not None else (0, 0)
