"""Answers of captioners: what is asked, what came, and the captions in it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

Buffer = Any
"""Bytes, or a buffer of pyarrow that holds them."""
LIST_JOIN = ", "  # of a list in a JSON answer, such as tags
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """Question to a captioner about an image."""

    key: str
    image: Buffer
    format: str  # of `image`
    width: int
    height: int
    prompt: str
    digest: str


@dataclass(frozen=True)
class Answer:
    """Answer of a captioner."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    is_cut: bool = False
    attempts: int = 1


@dataclass(frozen=True)
class Unanswered:
    """Request without an answer, or not made."""

    error: ErrorClass
    detail: str
    attempts: int = 0


def captions_in(answer: Answer, names: Sequence[str]) -> dict[str, str]:
    """Return the captions of a JSON answer by name.

    Raises:
        FetchFailure: CUT_ANSWER, NO_ANSWER or BAD_ANSWER.
    """
    text = _bare(answer)
    data = _object(text)
    found = {}
    for name in names:
        if name not in data:
            there = ", ".join(map(str, data)) or "no fields"
            raise FetchFailure(ErrorClass.BAD_ANSWER, f"the answer has no {name!r}, but {there}")
        found[name] = _text(name, data[name])
    return found


def caption_in(answer: Answer) -> str:
    """Return the caption that an answer is as a whole. Raises FetchFailure as ``captions_in``."""
    return _bare(answer)


def answers_schema(names: Sequence[str]) -> dict[str, Any]:
    """JSON schema of an answer with some names."""
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def _bare(answer: Answer) -> str:
    """The text of an answer without thoughts and fences."""
    if answer.is_cut:  # a caption that ends in the middle of a sentence is none
        detail = f"the answer reached max_tokens: {answer.text[-60:]!r}"
        raise FetchFailure(ErrorClass.CUT_ANSWER, detail)
    text = _THOUGHT.sub("", answer.text).strip()
    fenced = _FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        raise FetchFailure(ErrorClass.NO_ANSWER, "the answer is empty")
    return text


def _object(text: str) -> Mapping[str, Any]:
    """The JSON object of a text, which may have words around it."""
    start, end = text.find("{"), text.rfind("}")
    try:
        data = json.loads(text[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError) as error:
        raise FetchFailure(ErrorClass.BAD_ANSWER, f"no JSON ({error}): {text[:200]}") from None
    if not isinstance(data, dict):
        raise FetchFailure(ErrorClass.BAD_ANSWER, f"no JSON object: {text[:200]}")
    return data


def _text(name: str, value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = LIST_JOIN.join(one.strip() for one in value if one.strip())
    if not isinstance(value, str):
        raise FetchFailure(ErrorClass.BAD_ANSWER, f"{name!r} is no text: {str(value)[:200]}")
    if not value.strip():
        raise FetchFailure(ErrorClass.NO_ANSWER, f"{name!r} is empty")
    return value.strip()
