"""Grammar of the drawn scenes' captions.

A caption is a group of equal shapes ("two small red circles"), or two groups of different colours and how
they lie ("a purple ring left of a cyan square").
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 45),
    "yellow": (245, 208, 30),
    "green": (40, 160, 70),
    "cyan": (30, 190, 205),
    "blue": (40, 85, 215),
    "purple": (140, 50, 185),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
SIZES = {"small": 4, "": 6, "large": 8}  # diameter in cells; the middle size is not in the caption
NUMBERS = {1: "a", 2: "two", 3: "three"}
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUND = 228  # a tone of grey


class OutsideGrammarError(ValueError):
    """A prompt that is no caption of a drawn scene.

    The message says what one is.
    """


@dataclass(frozen=True)
class Group:
    """One to three equal shapes: the "two small red circles" of a caption."""

    number: int
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        words = (NUMBERS[self.number], self.size, self.colour, self.shape + "s" * (self.number > 1))
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Caption:
    """One group, or two and how the first lies to the second."""

    groups: tuple[Group, ...]
    relation: str = ""

    def __str__(self) -> str:
        return f" {self.relation} ".join(map(str, self.groups))


_GROUP = (
    rf"(?:{'|'.join(NUMBERS.values())}) (?:(?:{'|'.join(filter(None, SIZES))}) )?"
    rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})s?"
)
_CAPTION = re.compile(rf"({_GROUP})(?: ({'|'.join(RELATIONS)}) ({_GROUP}))?")


def read_caption(prompt: str) -> Caption:
    """Read a prompt; case, spaces and a full stop do not matter.

    Raises:
        OutsideGrammarError: it is no caption of a drawn scene.
    """
    text = " ".join(prompt.lower().split()).removesuffix(".")
    if found := _CAPTION.fullmatch(text):
        first, relation, second = found.groups()
        groups = tuple(_read_group(words) for words in (first, second) if words)
        caption = Caption(groups, relation or "")
        apart = len({(group.colour, group.shape) for group in groups}) == len(groups)
        if str(caption) == text and apart:
            return caption
    raise OutsideGrammarError(f"{prompt!r} is no drawn scene; one is {described()}")


def _read_group(text: str) -> Group:
    number, *size, colour, shape = text.split()
    numbers = {word: n for n, word in NUMBERS.items()}
    return Group(numbers[number], "".join(size), colour, shape.removesuffix("s"))


def described() -> str:
    """A line that says what may stand in a caption."""
    return (
        f"{_listed(NUMBERS.values())}, {_listed(filter(None, SIZES))} or no size, {_listed(COLOURS)}, "
        f"{_listed(SHAPES)}, and after {_listed(RELATIONS)} others once more, "
        'as in "two small green stars" or "a purple ring left of a cyan square"'
    )


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def cell_of(width: int, height: int) -> float:
    """Pixels of a cell: the short side has 16 if the frame is about square, else 12.

    These are the codes along the short side of the buckets 128 x 128, and 160 x 96.
    """
    short, long = sorted((width, height))
    return short / (16 if 3 * long <= 4 * short else 12)
