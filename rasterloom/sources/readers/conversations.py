"""Samples out of conversations, the form that Lumina-mGPT is fine-tuned on.

A JSON list (or JSON Lines) of ``{"conversations": [{"from": "human", "value": ...}, {"from": "gpt",
"value": ...}], "image": [...]}``, where ``<|image|>`` in a value stands for the next of the images. Without
``image`` it is text alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.schema import T2I
from rasterloom.sources.files import Files
from rasterloom.sources.readers.json_records import records
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row, SourceSample
from rasterloom.sources.readers.tally import FileTally
from rasterloom.sources.readers.tasks import is_url, place_of, text_of

IMAGE = "<|image|>"
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}

# The reference's text-to-image prompt. What it asks for is a plain pair: the size in it is written anew.
_DRAW = re.compile(r"Generate an image (?:of \d+x\d+ )?according to the following prompt:\n(.*)", re.DOTALL)
_DESCRIBE = re.compile(r"describe (?:this|the) image in detail\.?", re.IGNORECASE)
_VIEWS = re.compile(r"generate \d+ object views ")
# How the reference's prompts of tasks from an image to an image begin.
_BEGINS = (
    ("depth estimation", "depth"),
    ("surface normal estimation", "normal"),
    ("human pose estimation", "pose"),
    ("segmentic segmentation", "segmentation"),
    ("semantic segmentation", "segmentation"),
    ("detect:", "detection"),
    ("generate an image according to the provided image", "control"),
)


def check(files: Files, name: str, source: Source) -> None:
    """Check that a file begins with a record of conversations."""
    for row in records(files, name, source):
        if UNREADABLE not in row and "conversations" not in row:
            there = ", ".join(row) or "nothing"
            raise SourceError(f"{files.shown(name)}: a record has no 'conversations'; it has {there}")
        return


def read(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield a row a record: a sample, or the record with what keeps it from being one."""
    root = source.root.rstrip("/") if source.root else files.store.root.rstrip("/")
    folder = "" if source.root else name.rpartition("/")[0]
    for record in records(files, name, source, counts):
        if UNREADABLE in record:
            yield Row(record)
            continue
        try:
            yield _row(record, source, root, folder)
        except ValueError as error:
            yield Row({**record, UNUSABLE: str(error)})


def _row(record: dict[str, Any], source: Source, root: str, folder: str) -> Row:
    """Make a sample of a record. ValueError, with a sentence, if it is none."""
    messages = messages_of(record.get("conversations"))
    images = record.get("image")
    named = [] if images is None else images if isinstance(images, list) else [images]
    places = []
    for number, image in enumerate(named, 1):
        if not isinstance(image, str) or not image.strip():
            raise ValueError(f"image {number} of {len(named)} is no path or URL, but {image!r}")
        places.append(place_of(image, root, folder))
    counts = [message.count(IMAGE) for message in messages]
    if places and not any(counts):
        counts[0] = len(places)  # they go before the first message
    elif sum(counts) != len(places):
        raise ValueError(f"its messages hold {sum(counts)} {IMAGE}, but its list `image` has {len(places)}")
    rest = {key: value for key, value in record.items() if key not in ("image", "conversations", "task")}
    named_task = record.get("task") if isinstance(record.get("task"), str) else ""
    task = str(named_task).strip() or task_of(messages, counts)
    drawn = _DRAW.fullmatch(messages[0].strip())
    if task == T2I and counts == [0, 1] and messages[1].strip() == IMAGE and drawn:
        values = {**rest, source.caption: drawn[1].strip()}
        if is_url(places[0]):
            return Row({**values, source.url: places[0]})
        values.pop(source.url, None)
        return Row(values, places[0])
    roles = ("human", "gpt")
    turns = [{"from": roles[i % 2], "value": message} for i, message in enumerate(messages)]
    main = next((sum(counts[:i]) for i in range(1, len(counts), 2) if counts[i]), 0)
    rest.pop(source.url, None)
    sample = SourceSample(task, json.dumps(turns, ensure_ascii=False), tuple(places), main)
    return Row({**rest, source.caption: _caption(task, messages)}, sample=sample)


def messages_of(turns: Any) -> list[str]:
    """Return the messages of a conversation, the human's first, then in turn.

    ValueError, with a sentence, if it is none, or has no answer.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError("its `conversations` is no list of turns" if turns else "it has no turns")
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise ValueError(f"turn {number} is no object with `from` and `value`, but {_short(turn)}")
        role = turn.get("from")
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise ValueError(f"turn {number} is from {_short(role)}; known are {', '.join(ROLES)}")
        expected = "gpt" if number % 2 == 0 else "human"
        if ROLES[role.lower()] != expected:
            raise ValueError(f"turn {number} is from {role!r}, but human and gpt take turns, human first")
        value = turn.get("value")
        if not isinstance(value, str):
            raise ValueError(f"turn {number} has no text, but {_short(value)}")
        if text_of(value) is None:
            raise ValueError(f"turn {number} is no text in UTF-8")
        messages.append(value)
    if not any(message.strip() for message in messages[1::2]):
        raise ValueError("it has no answer to learn from")
    return messages


def task_of(messages: Sequence[str], counts: Sequence[int]) -> str:
    """Tell a conversation's task by its image positions and the reference's wording.

    Args:
        counts: images of each message.
    """
    asked, answered = sum(counts[::2]), sum(counts[1::2])
    question = messages[0].replace(IMAGE, "").strip().lower()
    if not asked and not answered:
        return "text"
    if not answered:
        return "caption" if len(messages) == 2 and _DESCRIBE.fullmatch(question) else "vqa"
    if not asked and answered == 1:
        return T2I
    if not asked and len(messages) == 2:
        return "multiview" if _VIEWS.match(question) else "interleaved"
    return next((task for begin, task in _BEGINS if question.startswith(begin)), "edit")


def _caption(task: str, messages: Sequence[str]) -> str:
    """Return the text of a conversation for the column of captions."""
    texts = [message.replace(IMAGE, "").strip() for message in messages]
    drawn = _DRAW.fullmatch(texts[0])
    if drawn and drawn[1].strip():
        return drawn[1].strip()
    first = texts[1] if task == "caption" else texts[0]
    return first or next(filter(None, texts), "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
