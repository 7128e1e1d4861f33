"""The growth curve of bench_commit.py: seconds of commits and of plans over the number of files, as SVG.

python benchmarks/commit_curve.py ROWS.json PICTURE.svg
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WIDE, TALL, LEFT, TOP = 330, 240, 52, 34  # of a panel's axes, and of the room around them
GAP = 74
COLOURS = {"disk": "#2f6f8f", "S3": "#c0602b"}
STYLE = "font-family='sans-serif' font-size='12' fill='#333'"
Row = Mapping[str, float | str]


def draw(rows: Sequence[Row]) -> str:
    """Two panels, of commits and plans, both axes in powers of ten."""
    width, height = 2 * (LEFT + WIDE) + GAP, TOP + TALL + 76
    panels = [
        _panel(name, rows, LEFT + i * (WIDE + LEFT + GAP / 2)) for i, name in enumerate(("commit", "plan"))
    ]
    legend = "".join(
        f"<path d='M{x} {height - 12}h26' stroke='{colour}' stroke-width='2' {dashes}/>"
        f"<text x='{x + 32}' y='{height - 8}' {STYLE}>{text}</text>"
        for x, (text, colour, dashes) in zip(range(LEFT, width, 150), _legend(), strict=False)
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}'>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(panels)}{legend}</svg>\n"
    )


def _legend() -> list[tuple[str, str, str]]:
    kinds = (("", ""), (", CPU", "stroke-dasharray='3 3'"))
    return [(place + words, colour, dashes) for place, colour in COLOURS.items() for words, dashes in kinds]


def _panel(name: str, rows: Sequence[Row], left: float) -> str:
    """One panel: a line for each place, and a broken one for the CPU's part of it."""
    files = [float(row["files"]) for row in rows]
    seconds = [float(row[f"{n}{kind}"]) for row in rows for n in ("commit", "plan") for kind in ("", "_cpu")]
    across, up = _decades(files), _decades([s for s in seconds if s > 0])

    def x(value: float) -> float:
        return left + WIDE * (math.log10(value) - across[0]) / (across[-1] - across[0])

    def y(value: float) -> float:
        value = max(value, 10.0 ** up[0])
        return TOP + TALL * (1 - (math.log10(value) - up[0]) / (up[-1] - up[0]))

    parts = [f"<text x='{left}' y='{TOP - 14}' {STYLE} font-weight='bold'>{name}, seconds</text>"]
    for power in up:
        at = y(10.0**power)
        parts.append(f"<path d='M{left} {at:.1f}h{WIDE}' stroke='#ddd'/>")
        parts.append(
            f"<text x='{left - 6}' y='{at + 4:.1f}' {STYLE} text-anchor='end'>{10.0**power:g}</text>"
        )
    for power in across:
        at = x(10.0**power)
        parts.append(f"<path d='M{at:.1f} {TOP}v{TALL}' stroke='#ddd'/>")
        parts.append(
            f"<text x='{at:.1f}' y='{TOP + TALL + 18}' {STYLE} text-anchor='middle'>{10**power:,}</text>"
        )
    parts.append(
        f"<text x='{left + WIDE / 2}' y='{TOP + TALL + 36}' {STYLE} text-anchor='middle'>files</text>"
    )
    for place, colour in COLOURS.items():
        mine = sorted((row for row in rows if row["place"] == place), key=lambda row: float(row["files"]))
        for kind, dashes in (("", ""), ("_cpu", "stroke-dasharray='3 3'")):
            points = [(x(float(row["files"])), y(float(row[name + kind]))) for row in mine]
            line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
            parts.append(
                f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2' {dashes}/>"
            )
            if not kind:
                parts += [f"<circle cx='{px:.1f}' cy='{py:.1f}' r='3' fill='{colour}'/>" for px, py in points]
    return "".join(parts)


def _decades(values: Sequence[float]) -> range:
    """Powers of ten that enclose the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return range(low, max(high, low + 1) + 1)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text())))
