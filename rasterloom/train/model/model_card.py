"""Files beside a model's weights: its token ids, text vocabulary and model card. Nothing here needs torch."""

import json
from dataclasses import asdict
from pathlib import Path

from rasterloom.schema import Profile
from rasterloom.storage.layout import CARD, FIRST_TEXT_ID, PROFILE, TOKENIZER, VOCABULARY
from rasterloom.train.job import Vocabulary

_CARD = """---
library_name: transformers
pipeline_tag: text-to-image
tags: [chameleon, rasterloom]
---

# Autoregressive image model

A Chameleon without its image encoder, trained by Rasterloom on token sequences of text and images.

```python
from transformers import ChameleonForConditionalGeneration

model = ChameleonForConditionalGeneration.from_pretrained(".")
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


def write_companions(folder: Path, profile: Profile, vocabulary: Vocabulary | None, dtype: str) -> None:
    """Write profile, tokenizer and model card into a model's folder."""
    about = asdict(profile)
    text = ""
    if vocabulary is not None:
        about |= {FIRST_TEXT_ID: vocabulary.first_id, VOCABULARY: vocabulary.digest}
        (folder / TOKENIZER).write_text(vocabulary.tokenizer_json, encoding="utf-8")
        text = _TEXT.format(first=vocabulary.first_id)
    (folder / PROFILE).write_text(json.dumps(about, indent=1))
    image0 = "as `image_ids` lists" if profile.image_ids else f"{profile.image0} + c"
    size = profile.vocab_size
    card = _CARD.format(dtype=dtype, name=profile.name, size=size, image0=image0, text=text)
    (folder / CARD).write_text(card, encoding="utf-8")
