"""Tiny random language models, in folders as transformers writes them."""

import json
from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rasterloom.tokenize.text_tokenizer import train_text

# What real models of the families have: heads of a width of their own, biases, scaled rotation.
CONFIGS = {
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"sliding_window": None, "head_dim": 12},
    "olmo2": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {"num_hidden_layers": 4},  # every fourth layer has no positions
}  # fmt: skip
CAPTIONS = ["a large red circle", "a small blue star on a table", "two green squares"] * 3
END, BOS, PAD = "<|end|>", "<|begin|>", "<|pad|>"


@cache
def tokenizer_json(specials=(END, BOS, PAD)):
    """A byte-level BPE of 300 ids with special tokens behind."""
    data = json.loads(train_text(CAPTIONS, 300))
    first = len(data["model"]["vocab"])
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    data["added_tokens"] = [{"id": first + n, "content": name, **kinds} for n, name in enumerate(specials)]
    return json.dumps(data)


def write_tokenizer(folder, specials=(END, BOS, PAD), settings=None):
    """Write a language model's tokenizer; return its number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    content = tokenizer_json(specials)
    (folder / "tokenizer.json").write_text(content)
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    data = json.loads(content)
    return len(data["model"]["vocab"]) + len(data["added_tokens"])


def write_model(folder, family, *, tied, **fields):
    """Write a tiny language model and its tokenizer."""
    settings = {"eos_token": END, "bos_token": BOS, "pad_token": END}
    size = write_tokenizer(folder, settings=settings)
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": size + 5,  # embeddings have more rows than there are ids
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.2,
            "tie_word_embeddings": tied,
            "pad_token_id": None,
            "bos_token_id": size - 2,
            "eos_token_id": size - 3,
            **CONFIGS.get(family, {}),
            **fields,
        },
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # biases and gains that do something
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return str(folder)
