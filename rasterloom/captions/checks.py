"""Checks of captions: refusals, boilerplate, echoes of the prompt, names of models, repetition, language."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.captions import LanguageScorer

LOOKED_AT = 4000  # characters that patterns are sought in
RUN = 4  # words of a run, whose repetition is measured
ECHO = 8  # words in a row of the prompt that make an answer an echo

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+(?:['’][^\W_]+)*")
_REFUSAL = re.compile(
    r"""^\W*(?:(?:i['’]m|i\ am)\ (?:(?:very|so)\ )?(?:sorry|unable|not\ able|afraid)
          |(?:i\ )?apologi[sz]e|my\ apologies|sorry,?\ (?:but\ )?(?:i|we|this)\b
          |i\ (?:can['’]?t|cannot|can\ not|won['’]t|do\ not|don['’]t)\ (?:help|assist|provide|describe
              |identify|see|view|comply|process|generate|create|analy[sz]e|do|fulfil)
          |unfortunately,?\ (?:i|the\ image|no\ image)\b|as\ an\ ai\b
          |(?:there\ is\ )?no\ image\ (?:was\ |is\ |has\ been\ )?(?:provided|attached|visible|given|uploaded))
      |\bas\ an?\ (?:ai|artificial\ intelligence|language)\ (?:language\ )?(?:model|assistant)\b
      |\b(?:against|violates?)\ (?:my|our|the|openai['’]?s?)\ (?:content\ |usage\ )?(?:polic|guidelines)""",
    re.I | re.X,
)
_BOILERPLATE = re.compile(
    r"""^\W*(?:(?:the|this|an?)\ (?:given\ |provided\ |above\ )?
             (?:image|picture|photo|photograph|illustration)\ (?:shows|depicts|features|displays|presents
             |portrays|showcases|captures|contains|is\ of|appears)
          |in\ (?:the|this)\ (?:image|picture|photo)
          |(?:sure|certainly|of\ course|absolutely)\b[,!.]|here(?:['’]s|\ is|\ are)\b
          |(?:\*\*)?(?:caption|description|title|answer|output)(?:\*\*)?\s*:)
      |\b(?:let\ me\ know|hope\ (?:this|that)\ helps|feel\ free\ to|would\ you\ like\ me\ to)\b""",
    re.I | re.X,
)
_MODELS = re.compile(
    r"\b(?:gpt-?\s?[345]\w*|chatgpt|openai|claude\s(?:\d|opus|sonnet|haiku)|anthropic|gemini\s(?:pro|flash|\d)|llava|qwen\S*|internvl\S*"
    r"|blip-?2?|florence-2|smolvlm|paligemma|joycaption|cogvlm\S*|llama-\d\S*|(?:large\s)?language\smodel)\b",
    re.I,
)


def check_captions(
    captions: Sequence[str | None], prompts: Sequence[str], model: str = ""
) -> dict[str, list[Any]]:
    """Return the columns of checks, null where there is no caption.

    Args:
        prompts: of each, the words that are the same for all images.
        model: its name, which no caption should hold.
    """
    found = [
        _check(text, prompt, model) if text is not None else {}
        for text, prompt in zip(captions, prompts, strict=True)
    ]
    columns = ("refusal", "boilerplate", "echo", "names_model", "repetition", "words")
    languages = _languages(captions)
    return {name: [row.get(name) for row in found] for name in columns} | {"language": languages}


def _check(text: str, prompt: str, model: str) -> dict[str, Any]:
    looked_at = text[:LOOKED_AT]
    words = _words(text)
    runs = list(zip(*(words[n:] for n in range(RUN)), strict=False))
    own = model.rpartition("/")[2].lower()
    return {
        "refusal": bool(_REFUSAL.search(looked_at)),
        "boilerplate": bool(_BOILERPLATE.search(looked_at)),
        "echo": _is_echo(words, prompt),
        "names_model": bool(_MODELS.search(looked_at)) or (len(own) > 3 and own in looked_at.lower()),
        "repetition": 1 - len(Counter(runs)) / len(runs) if runs else 0.0,
        "words": len(words),
    }


def _is_echo(words: list[str], prompt: str) -> bool:
    asked = _words(prompt)
    size = min(ECHO, len(asked))
    if size < RUN + 1:  # so few words may be a caption's own
        return False
    runs = {tuple(asked[n : n + size]) for n in range(len(asked) - size + 1)}
    return any(tuple(words[n : n + size]) in runs for n in range(len(words) - size + 1))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _languages(captions: Sequence[str | None]) -> list[str | None]:
    """Languages of captions; null without the extra `language`."""
    scorer = _language_scorer()
    if scorer is None:
        return [None] * len(captions)
    lines = [text and " ".join(text.split()) for text in captions]
    return list(scorer(Batch([], lines))["language"])


@cache
def _language_scorer() -> LanguageScorer | None:
    try:
        return LanguageScorer()
    except ValueError:
        return None
