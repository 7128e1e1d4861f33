"""Draws docs/images/gallery.webp: an image of every prompt of a suite, unpicked, with the judge's verdict.

python scripts/gallery_picture.py [SUITE] [FILE]

SUITE is the table that the step `sample` leaves beside its images, by default that of `make demo`. Of each
prompt the image of the first seed is shown. What the judge finds wrong has a red frame, and below it what the
judge sees.
"""

import io
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from rasterloom.filtering.scenes.grammar import read_caption

ROOT = Path(__file__).parents[1]
COLUMNS, SIDE, LINE, MARGIN, FRAME = 8, 128, 15, 14, 4
CELL, TEXT_LINES = SIDE + 2 * MARGIN, 4
INK, QUIET, PAPER, RIGHT, WRONG = (32, 33, 36), (176, 58, 46), (255, 255, 255), (46, 125, 50), (198, 40, 40)


def default_suite() -> Path:
    """Table of the quickstart's latest run."""
    found = sorted(
        (ROOT / "work/quickstart").glob("**/sample/*/suite.parquet"), key=lambda p: p.stat().st_mtime
    )
    if not found:
        raise SystemExit("make demo has not been run here: name a suite.parquet")
    return found[-1]


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, lines: int) -> list[str]:
    """Break a text into lines of a cell's width."""
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) > CELL - MARGIN and found[-1]:
            found.append(word)
        else:
            found[-1] = longer
    return found[:lines]


def kind_of(row: dict[str, Any]) -> int:
    """Place in the order of kinds: one shape, several, two in a relation."""
    caption = read_caption(row["prompt"])
    assert caption
    return 2 if caption.relation else int(caption.groups[0].number > 1)


def draw(rows: list[dict[str, Any]]) -> Image.Image:
    """Lay rows of a suite's table out as a contact sheet."""
    font = ImageFont.load_default(12)
    height = SIDE + 2 * MARGIN + TEXT_LINES * LINE
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(rows) // COLUMNS) * height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        x, y = number % COLUMNS * CELL + MARGIN, number // COLUMNS * height + MARGIN
        image = (
            Image.open(io.BytesIO(row["image"])).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        )
        right = row["all_right"]
        box = (x - FRAME, y - FRAME, x + SIDE + FRAME - 1, y + SIDE + FRAME - 1)
        pen.rectangle(box, fill=RIGHT if right else WRONG)
        sheet.paste(image, (x, y))
        lines = [(line, INK) for line in wrapped(row["prompt"], font, 2)]
        if not right:
            lines += [(line, QUIET) for line in wrapped(f"seen: {row['seen'] or 'nothing'}", font, 2)]
        for place, (line, colour) in enumerate(lines):
            pen.text((x - FRAME, y + SIDE + FRAME + 2 + place * LINE), line, colour, font)
    return sheet


def main() -> None:
    """Draw the sheet."""
    given = [Path(argument) for argument in sys.argv[1:]]
    suite = given[0] if given else default_suite()
    out = given[1] if len(given) > 1 else ROOT / "docs/images/gallery.webp"
    table = pq.read_table(suite)
    first = pc.min(table["seed"])
    rows = table.filter(pc.equal(table["seed"], first)).to_pylist()
    draw(sorted(rows, key=kind_of)).save(out, quality=80, method=6)
    print(f"{out}: {sum(row['all_right'] for row in rows)} of {len(rows)} right")


if __name__ == "__main__":
    main()
