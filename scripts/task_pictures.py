"""Draws docs/images/tasks.png: a sample of every task as the model reads it, out of its own tokens.

python scripts/task_pictures.py [FILE]

The samples of examples/tasks go through the sources, the codec `mini` and the framing; what is shown is
decoded from the token sequences alone. Below each sample is its sequence, drawn to scale.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Column, Source
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import Profile
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import read_sources
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.sample_rows import text_of
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard
from rasterloom.tokenize.unirep import unframe

ROOT = Path(__file__).parents[1]
TARGET, VOCABULARY, ROOM = 160, 600, 2
TASKS = ("t2i", "caption", "depth", "normal", "segmentation", "pose", "detection", "edit", "control", "vqa",
         "multi-turn edit", "text", "multiview")  # fmt: skip
COLUMNS, WIDTH, MARGIN, LINE = 2, 690, 22, 19
INK, QUIET, PAPER = (32, 33, 36), (110, 114, 120), (255, 255, 255)
ASKED, LEARNT, SPECIAL = (176, 184, 196), (226, 112, 58), (32, 33, 36)

Part = tuple[str | Image.Image, int, bool]  # text or image, its tokens, whether it is learnt


def samples() -> tuple[list[dict[str, Any]], Profile, JsonText]:
    """Return one room's token rows, their ids and their text."""
    sys.path.insert(0, str(ROOT / "examples" / "tasks"))
    from make import make

    with TemporaryDirectory() as folder:
        make(Path(folder), ROOM + 1)
        column = Column(column="task")
        sources = [
            Source(path=f"{folder}/tasks.jsonl", task=column, input="input", output="output"),
            Source(path=f"{folder}/conversations.json"),
        ]
        pairs, _ = read_sources(sources)
        images = fetch_shard(pairs, Fetch(), shard=0, sources=sources)
    config = Tokenize(text_vocab=VOCABULARY, view_side=64)
    profile = profile_of("mini", VOCABULARY)
    text = JsonText(train_text([text_of(row) for row in images.to_pylist()], VOCABULARY), profile.text0)
    tokens, failures = tokenize_shard(
        images, None, target=TARGET, codec=load_codec("mini"), text=text, config=config
    )
    assert not len(failures), failures.to_pylist()
    order = {key: place for place, key in enumerate(pairs["key"].to_pylist())}
    return sorted(tokens.to_pylist(), key=lambda row: order[row["key"]]), profile, text


def turns(row: dict[str, Any], profile: Profile, text: JsonText, codec: Any) -> list[list[Part]]:
    """Take a sequence apart: its turns, and their texts and images."""
    ids = np.array(row["input_ids"])
    learnt = np.zeros(len(ids), bool)
    for start, end in np.reshape(row["loss_spans"], (-1, 2)):
        learnt[start:end] = True
    found: list[list[Part]] = [[]]
    at = 1
    while at < len(ids):
        end = at + 1
        if ids[at] == profile.sep:
            found.append([])
        elif ids[at] == profile.boi:
            end = at + 1 + int(np.flatnonzero(ids[at:] == profile.eoi)[0])
            image = Image.fromarray(codec.decode(unframe(ids[at:end], profile)[None])[0])
            found[-1].append((image, end - at, bool(learnt[at])))
        else:
            while ids[end] >= profile.text0:
                end += 1
            found[-1].append((text.decode(ids[at:end].tolist()), end - at, bool(learnt[at])))
        at = end
    return found[:-1]


class Sheet:
    """A place to draw on, from the top down in columns."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (COLUMNS * WIDTH + MARGIN, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.font, self.small = (ImageFont.load_default(size) for size in (15, 12))
        self.title = ImageFont.load_default(18)

    def sample(self, x: int, y: int, title: str, said: list[list[Part]], tokens: int) -> int:
        """Draw a sample; return where the next may begin."""
        right = x + WIDTH - MARGIN
        self.pen.text((x, y), title, INK, self.title)
        words = f"{tokens:,} tokens"
        self.pen.text((right - self.pen.textlength(words, self.small), y + 6), words, QUIET, self.small)
        y += 28
        for number, turn in enumerate(said):
            y = self.turn(x, y, right, "gpt" if number % 2 else "human", turn) + 6
        y = self.strip(x, y + 2, right, said) + 12
        self.pen.line((x, y, right, y), (228, 230, 234))
        return y + 14

    def turn(self, x: int, y: int, right: int, role: str, parts: list[Part]) -> int:
        """Draw a turn: images and words in a row that breaks where it must."""
        self.pen.text((x, y + 1), role, LEARNT if role == "gpt" else QUIET, self.small)
        left = at = x + 52
        high = LINE
        many = sum(isinstance(part, Image.Image) and part.width > 80 for part, _, _ in parts) > 3
        for part, _, _ in parts:
            if isinstance(part, Image.Image):
                picture = (
                    part.resize((part.width // 2, part.height // 2), Image.Resampling.BOX) if many else part
                )
                if at + picture.width > right:
                    at, y, high = left, y + high + 4, 0
                self.image.paste(picture, (at, y))
                at, high = at + picture.width + 6, max(high, picture.height)
                continue
            for n, line in enumerate(part.split("\n")):
                if n:
                    at, y, high = left, y + high, LINE
                for word in line.split(" "):
                    width = round(self.pen.textlength(word + " ", self.font))
                    if at + width > right and at > left:
                        at, y, high = left, y + high, LINE
                    self.pen.text((at, y), word, INK, self.font)
                    at += width
        return y + high

    def strip(self, x: int, y: int, right: int, said: list[list[Part]]) -> int:
        """Draw the sequence to scale: what is asked, what is learnt, and the special tokens between."""
        total = 1 + sum(1 + sum(count for _, count, _ in turn) for turn in said)
        at = 0

        def draw(count: int, colour: tuple[int, int, int], is_picture: bool = False) -> None:
            nonlocal at
            a, b = (x + (right - x) * place / total for place in (at, at + count))
            self.pen.rectangle((a, y, max(a, b - 1), y + 10), fill=colour)
            if is_picture:
                self.pen.line((a, y + 13, max(a, b - 2), y + 13), colour, 2)
            at += count

        draw(1, SPECIAL)
        for number, turn in enumerate(said):
            for part, count, learnt in turn:
                draw(count, LEARNT if learnt else ASKED, isinstance(part, Image.Image))
            draw(1, LEARNT if number % 2 else SPECIAL)
        return y + 14


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("file", type=Path, nargs="?", default=ROOT / "docs" / "images" / "tasks.png")
    file = arguments.parse_args().file
    rows, profile, text = samples()
    codec = load_codec("mini")
    room = {}
    for row in rows:  # of each task the last room's
        said = turns(row, profile, text, codec)
        room["multi-turn edit" if row["task"] == "edit" and len(said) == 6 else row["task"]] = (row, said)
        if row["task"] == "edit" and len(said) != 2:
            continue
        if row["task"] == "edit":
            single = (row, said)
    room["edit"] = single
    sheet = Sheet(4000)
    ends = [MARGIN] * COLUMNS
    for task in TASKS:
        column = ends.index(min(ends))
        row, said = room[task]
        ends[column] = sheet.sample(MARGIN + column * WIDTH, ends[column], task, said, row["n_tokens"])
    sheet.image.crop((0, 0, sheet.image.width, max(ends))).quantize(256, dither=Image.Dither.NONE).save(file)
    print(f"{file}: {len(TASKS)} tasks, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
