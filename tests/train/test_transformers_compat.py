"""transformers' undocumented parts are where this version of Rasterloom looks for them."""

import pytest
import torch
import transformers
from transformers import ChameleonForConditionalGeneration

from rasterloom.train.model.packed_lm import PackedLM, build_model, own_attention, tiny_config
from rasterloom.train.transformers_compat import TransformersMoved, attention_name, without_initial_weights

MOVED = (
    f"transformers {transformers.__version__} moved {{what}}: mend rasterloom/train/transformers_compat.py, "
    "or pin transformers in pyproject.toml"
)


def test_a_model_tells_which_attention_it_has(profile):
    lm = build_model("tiny", profile)
    PackedLM(lm)
    packed = attention_name(lm.config)
    assert packed == "rasterloom_packed", MOVED.format(what="config._attn_implementation")
    with own_attention(lm):
        assert attention_name(lm.config) == "sdpa", MOVED.format(what="config._attn_implementation")
    assert attention_name(lm.config) == packed


def test_a_model_is_built_without_drawing_weights(profile):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with without_initial_weights():
        ChameleonForConditionalGeneration(tiny_config(profile))
    same = torch.equal(before, torch.get_rng_state())
    assert same, MOVED.format(what="no_init_weights")


def test_what_is_gone_is_named():
    with pytest.raises(TransformersMoved, match=r"has no config._attn_implementation: Rasterloom takes"):
        attention_name(object())
