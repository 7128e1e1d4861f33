"""Check that a model can be trained on concatenated sequences: its losses are those of each alone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from rasterloom.errors import one_line
from rasterloom.train.model.initialization import quiet
from rasterloom.train.model.packed_lm import PackedLM
from rasterloom.train.model.shapes import is_language_model

LENGTHS = (40, 23, 22, 7, 1)
TOLERANCE = 1e-4
LAYERS = 4  # the first and the last so many, at most: some models have layers of several kinds
WINDOW = 8  # at most, of attention: shorter than `LENGTHS`
TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_attention_heads": 4,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,  # far from uniform, so that differences show
}


def check_packing(init: str) -> None:
    """Compare packed and plain losses of a tiny model like a checkpoint.

    Raises:
        ValueError: they differ, or there is no such tiny model.
    """
    if not is_language_model(init):
        return  # Chameleon, whose packing has tests
    with quiet():
        config = AutoConfig.from_pretrained(init)
    try:
        difference = packing_error(tiny_like(config))
    except Exception as error:  # of any part of transformers
        raise ValueError(f"train.init: {init} cannot be tried: {one_line(error)}") from None
    if not difference < TOLERANCE:
        window = getattr(config, "sliding_window", None)
        why = f" (its attention has a window of {window} tokens)" if window else ""
        raise ValueError(
            f"train.init: {init} cannot be trained on packed sequences: a tiny {config.model_type} of its "
            f"config has losses that differ by {difference:.2g} from those without packing{why}"
        )


def tiny_like(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config of the same kind with tiny dimensions."""
    fields, layers = config.to_dict(), config.num_hidden_layers
    kept = sorted({*range(layers)[:LAYERS], *range(layers)[-LAYERS:]})
    for name, value in fields.items():
        if isinstance(value, list) and len(value) == layers:
            fields[name] = [value[number] for number in kept]
    if window := fields.get("sliding_window"):
        fields["sliding_window"] = min(window, WINDOW)
    grouped = config.num_key_value_heads < config.num_attention_heads
    heads = {"num_key_value_heads": 2 if grouped else 4, "num_hidden_layers": len(kept)}
    return type(config).from_dict({**fields, **TINY, **heads})


def packing_error(config: PreTrainedConfig) -> float:
    """Largest difference between packed and plain losses of a random model."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        ids = torch.randint(0, config.vocab_size, (sum(LENGTHS),))
        targets = torch.randint(0, config.vocab_size, ids.shape)
        logits = [
            model(input_ids=part[None], use_cache=False).logits[0]
            for part in torch.split_with_sizes(ids, LENGTHS)
        ]
        plain: Tensor = cross_entropy(torch.cat(logits), targets, reduction="none")
        packed = PackedLM(model).eval()(ids, targets, LENGTHS)
        return float((packed.nll - plain).abs().max())
