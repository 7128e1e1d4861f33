"""Files beside a model's weights: its token ids, text vocabulary and model card. Nothing here needs torch."""

import json
import re
from dataclasses import asdict
from pathlib import Path

from rasterloom.schema import Profile
from rasterloom.storage.layout import (
    CARD,
    FIRST_TEXT_ID,
    PROFILE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARY,
)
from rasterloom.train.job import Vocabulary
from rasterloom.utils.json_files import write_json

CHAMELEON = "ChameleonForConditionalGeneration"

_CARD = """---
library_name: transformers
pipeline_tag: text-to-image
tags: [{family}, rasterloom]
---

# Autoregressive image model

A {model}, trained by Rasterloom on token sequences of text and images.

```python
from transformers import {model}

model = {model}.from_pretrained(".")
logits = model(input_ids=ids).logits  # ids [batch, tokens] of profile.json
```

| file | content |
|---|---|
| `config.json`, `model*.safetensors` | the model, {dtype} |
| `profile.json` | token ids: `{name}`, {size:,} of them; code c of an image has id {image0} |
{text}
`rasterloom sample` generates images with this folder as its model, by a recipe of the same codec whose
`tokenize.text` is the `tokenizer.json` here.
"""
_TEXT = """| `tokenizer.json` | text vocabulary: id n of it is id {first} + n of the model |
"""


def write_companions(
    folder: Path, profile: Profile, vocabulary: Vocabulary | None, dtype: str, model: str = CHAMELEON
) -> None:
    """Write profile, tokenizer and model card into a model's folder.

    Args:
        model: transformers' class of it.
    """
    about = asdict(profile)
    text = ""
    if vocabulary is not None:
        about |= {FIRST_TEXT_ID: vocabulary.first_id, VOCABULARY: vocabulary.digest}
        (folder / TOKENIZER).write_text(vocabulary.tokenizer_json, encoding="utf-8")
        text = _TEXT.format(first=vocabulary.first_id)
        if settings := _tokenizer_settings(profile, vocabulary):
            write_json(folder / TOKENIZER_CONFIG, settings)
    (folder / PROFILE).write_text(json.dumps(about, indent=1))
    image0 = "as `image_ids` lists" if profile.image_ids else f"{profile.image0} + c"
    size = profile.vocab_size
    family = re.split("(?=For)", model)[0].lower()
    card = _CARD.format(
        dtype=dtype, name=profile.name, size=size, image0=image0, text=text, model=model, family=family
    )
    (folder / CARD).write_text(card, encoding="utf-8")


def _tokenizer_settings(profile: Profile, vocabulary: Vocabulary) -> dict[str, str]:
    """Names of special tokens, for transformers. Empty where the tokenizer has none for some."""
    added = json.loads(vocabulary.tokenizer_json).get("added_tokens") or ()
    names = {token["id"] + vocabulary.first_id: token["content"] for token in added}
    special = {"bos_token": profile.bos, "eos_token": profile.sep, "pad_token": profile.pad}
    if not {*special.values()} <= {*names}:
        return {}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **{what: names[i] for what, i in special.items()}}
