"""Conversations as token sequences with the spans of the loss mask.

    bos  message sep  answer sep  message sep  answer sep ...

No role names and no newline between turns. Every answer is learnt with its sep, and nothing else is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.schema import Profile
from rasterloom.tokenize.profiles import MOST_GRID_UNITS
from rasterloom.tokenize.prompt_templates import IMAGE
from rasterloom.tokenize.unirep import code_ids, frame, unframe

HUMAN = "human"
ASSISTANT = ("gpt", "assistant")

Turns = Sequence[tuple[str, str]] | Sequence[Mapping[str, str]]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Encoded:
    """A token sequence and its loss mask as half-open spans."""

    input_ids: NDArray[np.int32]  # [n]
    loss_spans: NDArray[np.int32]  # [k, 2]: start, end; ascending and disjoint


def encode(turns: Turns, images: Sequence[ArrayLike], text_encode: Encode, profile: Profile) -> Encoded:
    """Encode a conversation.

    Args:
        turns: (role, message) pairs, or mappings with ``from`` and ``value``; roles alternate between
            ``human`` and ``gpt`` (or ``assistant``). ``<|image|>`` in a message stands for the next image.
            Where no message holds one, all images go before the first message.
        images: codes [h, w] of each image, or its framed ids [n] (see ``unirep.frame``).
        text_encode: ids of a text, without special tokens.

    Raises:
        ValueError: roles do not alternate, images and placeholders differ in number, an image is broken,
            a text encodes to ids that are not text, or nothing is to be learnt.
    """
    encoded = _encode(turns, images, text_encode, profile)
    if not len(encoded.loss_spans):
        raise ValueError("the conversation has no answer to learn from")
    return encoded


def encode_prompt(
    turns: Turns, images: Sequence[ArrayLike], text_encode: Encode, profile: Profile
) -> NDArray[np.int32]:
    """Return the ids, int32 [n], that a model answers to: ``turns`` end with the human's.

    Raises:
        ValueError: as ``encode``, or the last turn is an answer.
    """
    if len(turns) % 2 == 0:
        raise ValueError("a prompt ends with the human's turn")
    return _encode(turns, images, text_encode, profile).input_ids


def _encode(turns: Turns, images: Sequence[ArrayLike], text_encode: Encode, profile: Profile) -> Encoded:
    messages = _place_images(_messages(turns), len(images))
    frames = iter([_framed(image, number, profile) for number, image in enumerate(images)])
    parts: list[NDArray[np.int32]] = [np.array([profile.bos], np.int32)]
    length = 1
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        start = length
        for part in _parts(message, frames, text_encode, profile):
            parts.append(part)
            length += len(part)
        parts.append(np.array([profile.sep], np.int32))
        length += 1
        if number % 2:
            spans.append((start, length))
    return Encoded(np.concatenate(parts), np.array(spans, np.int32).reshape(-1, 2))


def _messages(turns: Turns) -> list[str]:
    """Return the messages in order; even ones are the human's."""
    if not turns:
        raise ValueError("a conversation has at least one turn")
    messages = []
    for number, turn in enumerate(turns):
        if isinstance(turn, Mapping):
            if missing := {"from", "value"} - turn.keys():
                raise ValueError(f"turn {number} lacks {' and '.join(map(repr, sorted(missing)))}")
            role, message = turn["from"], turn["value"]
        else:
            role, message = turn
        expected = ASSISTANT if number % 2 else (HUMAN,)
        if not isinstance(role, str) or role.lower() not in expected:
            raise ValueError(
                f"turn {number} is of {role!r}, but turns alternate between human and gpt, human first"
            )
        if not isinstance(message, str):
            raise ValueError(f"turn {number} has no message: {message!r}")
        messages.append(message)
    return messages


def _place_images(messages: list[str], count: int) -> list[str]:
    placeholders = sum(message.count(IMAGE) for message in messages)
    if placeholders == 0:
        return [f"{IMAGE} " * count + messages[0], *messages[1:]]
    if placeholders != count:
        raise ValueError(f"the messages hold {placeholders} {IMAGE}, but there are {count} images")
    return messages


def _parts(
    message: str, frames: Iterator[NDArray[np.int32]], text_encode: Encode, profile: Profile
) -> Iterator[NDArray[np.int32]]:
    for number, text in enumerate(message.split(IMAGE)):
        if number:
            yield next(frames)
        if text:
            yield _text_ids(text, text_encode, profile)


def _framed(image: ArrayLike, number: int, profile: Profile) -> NDArray[np.int32]:
    array = np.asarray(image)
    try:
        if array.ndim == 1:
            unframe(array, profile)
            return array.astype(np.int32)
        return frame(array, profile)
    except ValueError as error:
        raise ValueError(f"image {number}: {error}") from None


def _text_ids(text: str, text_encode: Encode, profile: Profile) -> NDArray[np.int32]:
    """Encode a text, and refuse what the model would read as structure: a caption may say ``<eoss>``."""
    ids = np.array(text_encode(text), np.int64)
    strange = (ids < 0) | (ids >= profile.vocab_size)
    strange[~strange] = structure(profile)[ids[~strange]]
    if strange.any():
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"the text {shown!r} encodes to {ids[strange][0]}, which is no id of text")
    return ids.astype(np.int32)


@lru_cache(maxsize=8)
def structure(profile: Profile) -> NDArray[np.bool_]:
    """Return which of the profile's ids are special, grid or image tokens: bool [vocab_size]."""
    special = np.zeros(profile.vocab_size, np.bool_)
    special[[profile.bos, profile.pad, profile.sep, profile.boi, profile.eoi, profile.eol]] = True
    special[profile.grid0 : profile.grid0 + MOST_GRID_UNITS + 1] = True
    special[code_ids(profile)] = True
    return special
