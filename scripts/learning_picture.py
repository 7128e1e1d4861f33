"""An image for the docs: what a stage drew of its fixed prompts, a row a prompt, a column a step.

python scripts/learning_picture.py work/quickstart/quickstart/files/train/1-64/*/ docs/images/learning.png
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP, LABEL, PROMPT = 6, 24, 190  # pixels


def strip(stage: Path, scale: int) -> Image.Image:
    drawings = sorted((stage / "samples").glob("step-*.json"))
    records = [json.loads(path.read_text()) for path in drawings]
    prompts = records[-1]["prompts"]
    sides = [scale * side for side in records[-1]["sizes"][0]]
    size = (PROMPT + len(drawings) * (sides[0] + GAP), LABEL + len(prompts) * (sides[1] + GAP))
    sheet = Image.new("RGB", size, (250, 250, 248))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, prompt in enumerate(prompts):
        pen.text(
            (GAP, LABEL + row * (sides[1] + GAP) + sides[1] // 2 - 8), prompt, fill=(40, 40, 40), font=font
        )
    for column, (path, record) in enumerate(zip(drawings, records, strict=True)):
        x = PROMPT + column * (sides[0] + GAP)
        pen.text((x, 4), f"step {record['step']:,}", fill=(90, 90, 90), font=font)
        for row in range(len(prompts)):
            with Image.open(path.with_name(f"{path.stem}-{row}.png")) as picture:
                sheet.paste(picture.resize(sides), (x, LABEL + row * (sides[1] + GAP)))
    return sheet


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=Path, help="folder of a stage")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--scale", type=int, default=2)
    options = arguments.parse_args()
    strip(options.stage, options.scale).save(options.out)


if __name__ == "__main__":
    main()
