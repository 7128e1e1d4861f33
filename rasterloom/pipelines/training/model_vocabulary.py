"""Text vocabularies of models: which one a folder has, and whether it is that of a corpus."""

import json
from pathlib import Path
from typing import Any

from rasterloom.errors import RecipeError
from rasterloom.storage.layout import FIRST_TEXT_ID, PROFILE, TOKENIZER, VOCABULARY
from rasterloom.tokenize.text_tokenizer import JsonText
from rasterloom.train.job import Vocabulary


def vocabulary_of(text: JsonText) -> Vocabulary:
    """Return a corpus's text vocabulary as models have it."""
    return Vocabulary(text.tokenizer_json, text.first_id, text.vocabulary)


def model_vocabulary(folder: Path) -> str | None:
    """Return the digest of the text vocabulary of a model. None if the folder does not tell it."""
    about = profile_record(folder)
    try:
        if (folder / TOKENIZER).is_file():
            content = (folder / TOKENIZER).read_text(encoding="utf-8")
            return JsonText(content, int(about.get(FIRST_TEXT_ID, 0))).vocabulary
    except (OSError, ValueError, TypeError):
        return None
    known = about.get(VOCABULARY)
    return str(known) if known else None


def profile_record(folder: Path) -> dict[str, Any]:
    """Read a model's profile.json. Empty if there is none that can be read."""
    try:
        found = json.loads((folder / PROFILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_vocabulary(folder: Path, text: JsonText, *, field: str) -> None:
    """Check that a model's text vocabulary is that of a corpus.

    Raises:
        RecipeError: it is another one, so that the model would read other words than are written.
    """
    known = model_vocabulary(folder)
    if known is not None and known != text.vocabulary:
        raise RecipeError(
            "has another text vocabulary than the tokens, so that ids mean different words; take a model of "
            "this vocabulary, or tokenize with the model's (tokenize.text: its tokenizer.json, or a language "
            "model's folder)",
            field=field,
            value=folder,
        )
