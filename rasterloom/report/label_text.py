"""Text of labels on images, in the scripts of the fonts shipped."""

from functools import cache, lru_cache
from importlib.resources import as_file, files
from itertools import groupby

from PIL import ImageDraw, ImageFont

SIZE = 14  # pixels
LINE = 18  # from one line to the next
MOST_CHARACTERS = 2000  # of a label; the rest is cut off
SCRIPTS = ("", "CJK", "Arabic", "Devanagari", "Bengali", "Tamil", "Thai", "Hebrew", "Armenian", "Georgian")
_MISSING = "\U0010ffff"  # a character of no font


def wrapped(text: str, width: float, most: int) -> list[str]:
    """Break a text into lines, between words where that is possible.

    Args:
        width: of a line, in pixels.
        most: lines; the last one ends with an ellipsis where the text is longer.
    """
    whole = "".join(char if char.isprintable() else " " for char in text[:MOST_CHARACTERS])
    lines: list[str] = []
    left = whole.strip()
    while left and len(lines) < most:
        fits = _fitting(left, width)
        space = left.rfind(" ", 0, fits + 1)
        end = space if fits < len(left) and space > 0 else fits
        lines.append(left[:end].rstrip())
        left = left[end:].lstrip()
    if left or len(text) > MOST_CHARACTERS:
        last = lines[-1]
        lines[-1] = last[: max(1, _fitting(last, width - text_width("…")))].rstrip() + "…"
    return lines


def text_width(text: str) -> float:
    """Width of a line, in pixels."""
    return sum(_fonts()[number].getlength(run) for number, run in _runs(text))


def draw_text(pen: ImageDraw.ImageDraw, left: float, top: float, text: str) -> None:
    """Draw a line, each character with a font that has it."""
    for number, run in _runs(text):
        font = _fonts()[number]
        pen.text((left, top + SIZE), run, fill="black", font=font, anchor="ls")
        left += font.getlength(run)


def _fitting(text: str, width: float) -> int:
    """Number of the first characters that fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle]) <= width else (low, middle - 1)
    return low


def _runs(text: str) -> list[tuple[int, str]]:
    """Stretches of a text that one font has, with its number."""
    numbers: list[int] = []
    for char in text:
        before = numbers[-1] if numbers else 0
        known = (n for n in (before, *range(len(SCRIPTS))) if _has(n, char))
        numbers.append(next(known, before))
    pairs = groupby(zip(numbers, text, strict=True), key=lambda pair: pair[0])
    return [(number, "".join(char for _, char in run)) for number, run in pairs]


@lru_cache(8192)
def _has(number: int, char: str) -> bool:
    """True if a font has a character. What it has not, it draws as its box for missing ones."""
    font = _fonts()[number]
    missing, found = font.getmask(_MISSING), font.getmask(char)
    return (found.size, bytes(found)) != (missing.size, bytes(missing))


@cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    folder = files("rasterloom.report") / "fonts"
    names = [f"NotoSans{script}-Subset.{'otf' if script == 'CJK' else 'ttf'}" for script in SCRIPTS]
    fonts = []
    for name in names:
        with as_file(folder / name) as path:
            fonts.append(ImageFont.truetype(path, SIZE))
    return tuple(fonts)
