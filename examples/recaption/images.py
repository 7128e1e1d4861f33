"""Draws the images of examples/recaption.yaml into work/recaption-images.

Each is a circle, a square or a star on a ground; its caption as found is that of a careless web page.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 200), "yellow": (230, 210, 60)}
GROUNDS = {"white": (240, 240, 240), "grey": (128, 128, 128), "black": (20, 20, 20)}
ALT = ("IMG_{n}", "buy now: {colour} thing", "{colour}", "shop / {colour} / {n}")


def draw(folder: Path, count: int) -> None:
    """Draw images, with a list.jsonl beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        colour, ground = rng.choice(list(COLOURS)), rng.choice(list(GROUNDS))
        width, height = rng.integers(96, 192, 2).tolist()
        image = Image.new("RGB", (width, height), GROUNDS[ground])
        side = min(width, height) // 2
        x, y = (int(rng.integers(0, whole - side)) for whole in (width, height))
        pen, box = ImageDraw.Draw(image), (x, y, x + side, y + side)
        if n % 2:
            pen.ellipse(box, COLOURS[colour])
        else:
            pen.rectangle(box, COLOURS[colour])
        image.save(folder / f"{n:04d}.png")
        kind = "circle" if n % 2 else "square"
        notes = [f"a {colour} {kind}", f"{kind} on {ground}"]
        rows.append({"file": f"{n:04d}.png", "text": ALT[n % 4].format(n=n, colour=colour), "notes": notes})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "work" / "recaption-images")
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    draw(arguments.out, arguments.count)
    print(arguments.out)


if __name__ == "__main__":
    main()
