"""Pairs out of conversations, the form that Lumina-mGPT is fine-tuned on.

A JSON list (or JSON Lines) of ``{"conversations": [{"from": "human", "value": ...}, {"from": "gpt",
"value": ...}], "image": [...]}``, where ``<|image|>`` in a value stands for the next of the images.
"""

import codecs
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from rasterloom.recipe import Source
from rasterloom.sources import locator
from rasterloom.sources.files import Files, SourceError
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row
from rasterloom.sources.readers.text import json_row, lines_of

IMAGE = "<|image|>"
PROMPT = "according to the following prompt:"  # of the reference's text-to-image data, a caption after it
DESCRIBE = ("describe this image in detail.", "describe the image in detail.")
ROLES = (("human", "user"), ("gpt", "assistant"))
CHUNK_BYTES = 1 << 20
MAX_RECORD_CHARACTERS = 64_000_000


def check(files: Files, name: str, source: Source) -> None:
    """Check that a file begins with a record of conversations."""
    for row in records(files, name):
        if UNREADABLE not in row and "conversations" not in row:
            there = ", ".join(row) or "nothing"
            raise SourceError(f"{files.shown(name)}: a record has no 'conversations'; it has {there}")
        return


def read(files: Files, name: str, source: Source) -> Iterator[Row]:
    """Yield a row a record: a pair, or the record with what keeps it from being one."""
    root = source.root.rstrip("/") if source.root else files.store.root.rstrip("/")
    folder = "" if source.root else name.rpartition("/")[0]
    for record in records(files, name):
        if UNREADABLE in record:
            yield Row(record)
            continue
        try:
            yield _pair(record, source, root, folder)
        except ValueError as error:
            yield Row({**record, UNUSABLE: str(error)})


def _pair(record: dict[str, Any], source: Source, root: str, folder: str) -> Row:
    """Make a pair of a record. ValueError, with a sentence, if it is none."""
    images, turns = record.get("image"), record.get("conversations")
    images = [images] if isinstance(images, str) else images or []
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("its images are no list of paths or URLs")
    if len(images) != 1:
        raise ValueError(f"a conversation with {len(images)} images; only one image makes a pair")
    caption = caption_of(turns)
    rest = {key: value for key, value in record.items() if key not in ("image", "conversations")}
    values = {**rest, source.caption: caption}
    image = images[0]
    if image.startswith(("http://", "https://")):
        return Row({**values, source.url: image})
    values.pop(source.url, None)
    return Row(values, locator.of_file(_inside(image, root, folder)))


def _inside(image: str, root: str, folder: str) -> str:
    """Return an image's name relative to ``root``. ValueError if it lies elsewhere."""
    if image.startswith(f"{root}/"):
        image, folder = image[len(root) + 1 :], ""
    name = os.path.normpath(os.path.join(folder, image))
    if "://" in image or name.startswith(("/", "../")) or name in ("..", ".") or "\0" in name:
        raise ValueError(f"the image {image!r} does not lie in {root}; the source's `root` names its folder")
    return name


def caption_of(turns: Any) -> str:
    """Return the caption that a conversation holds: of its answer's image, or as its answer.

    ValueError, with a sentence, if it holds none.
    """
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("not one question and one answer")
    values: list[str] = []
    for turn, roles in zip(turns, ROLES, strict=True):
        if turn.get("from") not in roles or not isinstance(turn.get("value"), str):
            raise ValueError("not a question by human and an answer by gpt, each of text")
        values.append(turn["value"].strip())
    question, answer = values
    if answer == IMAGE and IMAGE not in question:
        before, found, prompt = question.partition(PROMPT)
        return prompt.strip() if found and before.startswith("Generate an image ") else question
    if IMAGE not in answer and question.replace(IMAGE, "").strip().lower() in DESCRIBE:
        return answer
    raise ValueError("neither an image for a prompt nor a description of an image")


def records(files: Files, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON list or of JSON Lines, one in memory at a time.

    One that is no object comes as ``{UNREADABLE: text}``.
    """
    with files.open(name) as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        if not start.startswith(b"["):
            yield from map(json_row, lines_of(file))
            return
        for value in _items(file, files.shown(name)):
            yield value if isinstance(value, dict) else {UNREADABLE: json.dumps(value)}


def _items(file: BinaryIO, shown: str) -> Iterator[Any]:
    """Yield the items of a JSON list. SourceError where it is not JSON: what follows cannot be found."""
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    parse = json.JSONDecoder().raw_decode
    text, start, ended, done = "", 0, False, 0  # `done`: characters of items before `text`
    opened = False
    want = CHUNK_BYTES
    while True:
        if not ended:
            data = file.read(want)
            ended = not data
            text, done, start = text[start:] + decode(data, final=ended), done + start, 0
        while True:
            position = start
            while position < len(text) and text[position] in " \t\r\n,":
                position += 1
            if not opened and text[position : position + 1] == "[":
                opened, start = True, position + 1
                continue
            if text[position : position + 1] == "]":
                return
            try:
                value, end = parse(text, position)
            except (ValueError, RecursionError) as error:
                if not ended and len(text) - position < MAX_RECORD_CHARACTERS:
                    want = max(CHUNK_BYTES, len(text) - position)  # twice as much, so a long record is cheap
                    start = position
                    break
                words = "nested too deep" if isinstance(error, RecursionError) else "is no JSON list"
                raise SourceError(f"{shown}: {words} from character {done + position:,} on") from None
            if end == len(text) and not ended:
                break  # a number may go on
            want, start = CHUNK_BYTES, end
            yield value
