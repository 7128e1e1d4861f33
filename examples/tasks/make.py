"""Renders a small corpus of every task: python examples/tasks/make.py [FOLDER] [--rooms N]

The folder gets images, a table of samples by task (tasks.jsonl), and conversations in the format that
Lumina-mGPT is fine-tuned on (conversations.json). `examples/tasks.yaml` turns both into tokens.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from figure import figure
from PIL import Image, ImageDraw
from room import COLOURS, Ball, draw_balls, turned, view, words

SIZES = ((192, 128), (128, 192), (160, 160))  # width, height in pixels
VIEWS = 16
HERE = Path(__file__).resolve().parents[1]


def make(folder: Path, rooms: int) -> None:
    """Write images, tasks.jsonl and conversations.json of the given number of rooms."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    talks: list[dict[str, Any]] = []
    for number in range(rooms):
        found = _Room(folder, number)
        rows += found.rows()
        talks += found.talks()
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "conversations.json").write_text(json.dumps(talks, indent=1))


class _Room:
    """Images of a room, in files of the folder, with their texts."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.balls = draw_balls(number)
        self.size = SIZES[number % len(SIZES)]
        self.caption = words(self.balls)
        self.ball = self.balls[0]
        self.view = view(self.balls, self.size)
        self.image = self.save("room", self.view.image)

    def save(self, name: str, image: Image.Image) -> str:
        file = f"images/{self.number:03d}-{name}.png"
        image.save(self.folder / file)
        return file

    def seen(self, name: str, balls: list[Ball]) -> str:
        return self.save(name, view(balls, self.size).image)

    @property
    def other(self) -> str:
        """A colour of none of the balls."""
        return next(colour for colour in COLOURS if colour not in {ball.colour for ball in self.balls})

    def recoloured(self) -> list[Ball]:
        return [replace(b, colour=self.other) if b is self.ball else b for b in self.balls]

    def boxed(self) -> Image.Image:
        image = self.view.image.copy()
        ImageDraw.Draw(image).rectangle(self.view.boxes[self.ball.colour], outline=(255, 0, 0), width=3)
        return image

    def rows(self) -> list[dict[str, Any]]:
        """A sample of each task as rows of a table: input, output and text."""
        depth, body_pose = self.save("depth", self.view.depth), figure(self.number, self.size)
        body, pose = (self.save(n, i) for n, i in zip(("figure", "pose"), body_pose, strict=True))
        around = [
            self.save(f"view-{n:02d}", view(turned(self.balls, 2 * math.pi * n / VIEWS), (96, 96)).image)
            for n in range(VIEWS)
        ]
        image, count = self.image, len(self.balls)
        return [
            {"task": "t2i", "output": image, "caption": self.caption},
            {"task": "caption", "input": image, "caption": self.caption},
            {"task": "depth", "input": image, "output": depth},
            {"task": "normal", "input": image, "output": self.save("normal", self.view.normal)},
            {"task": "segmentation", "input": image, "output": self.save("segments", self.view.segments)},
            {"task": "pose", "input": body, "output": pose},
            {"task": "detection", "input": image, "output": self.save("boxed", self.boxed()),
             "object": f"the {self.ball.colour} ball"},
            {"task": "edit", "input": image, "output": self.seen("edited", self.recoloured()),
             "instruction": f"Make the {self.ball.colour} ball {self.other}."},
            {"task": "control", "input": depth, "output": image, "caption": self.caption},
            {"task": "multiview", "output": around, "caption": self.caption},
            {"task": "vqa", "input": image, "question": "How many balls are there?", "answer": f"{count}."},
            {"task": "text", "question": f"What is {count} and {self.number}?",
             "answer": f"{count + self.number}."},
        ]  # fmt: skip

    def talks(self) -> list[dict[str, Any]]:
        """Conversations with several turns, with several images, and with none."""
        balls, edited = self.balls, f"images/{self.number:03d}-edited.png"
        bigger = [
            replace(b, radius=1.3 * b.radius) if b.colour == self.other else b for b in self.recoloured()
        ]
        big, alone = self.seen("bigger", bigger), self.seen("alone", [self.ball])
        drawn = f"Generate an image of 192x128 according to the following prompt:\n{self.caption}"
        return [
            _talk([self.image, edited, big], drawn, "<|image|>",
                  f"Make the {self.ball.colour} ball {self.other}.", "<|image|>",
                  f"Make the {self.other} ball bigger.", "<|image|>"),
            _talk([self.image, edited], f"<|image|>Make the {self.ball.colour} ball {self.other}.",
                  "<|image|>", "How many balls are there?", f"{len(balls)}."),
            _talk([self.image, alone], "What is there in <|image|> that is not in <|image|>?",
                  words(balls[1:]) if len(balls) > 1 else "Nothing."),
            _talk([], f"Is the ball of room {self.number} round?", "Yes.", "And the room?", "Not as a rule."),
        ]  # fmt: skip


def _talk(images: list[str], *messages: str) -> dict[str, Any]:
    turns = [{"from": "gpt" if n % 2 else "human", "value": message} for n, message in enumerate(messages)]
    return {"conversations": turns, "image": images} if images else {"conversations": turns}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, nargs="?", default=HERE.parent / "work" / "tasks")
    arguments.add_argument("--rooms", type=int, default=12)
    options = arguments.parse_args()
    make(options.folder, options.rooms)
    print(
        f"{options.rooms} rooms in {options.folder}; now: rasterloom run examples/tasks.yaml --until tokens"
    )


if __name__ == "__main__":
    main()
