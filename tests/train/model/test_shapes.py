import json

import pytest

from rasterloom.train.model.shapes import SIZES, Shape, shape_of


def test_the_sizes_are_what_their_names_say():
    assert SIZES["7b"].params == pytest.approx(7.0e9, rel=0.01)
    assert SIZES["34b"].params == pytest.approx(34.3e9, rel=0.01)
    assert SIZES["1b"].params == pytest.approx(1.4e9, rel=0.05)
    assert SIZES["small"].params == pytest.approx(0.34e9, rel=0.05)


@pytest.mark.parametrize(
    ("size", "vocab", "params"),
    [
        ("qwen3-0.6b", 151_936, 596_049_920),
        ("qwen3-1.7b", 151_936, 1_720_574_976),
        ("qwen3-4b", 151_936, 4_022_468_096),
        ("qwen3-8b", 151_936, 8_190_735_360),
        ("llama-1b", 128_256, 1_235_814_400),
        ("llama-3b", 128_256, 3_212_749_824),
        ("llama-8b", 128_256, 8_030_261_248),
    ],
)
def test_the_sizes_of_other_families_are_those_of_the_published_models(size, vocab, params):
    assert shape_of(size, vocab).params == params


def test_a_name_takes_the_vocabulary_of_the_tokens():
    assert shape_of("small", 1000).vocab == 1000
    assert shape_of("small", 1000).params < SIZES["small"].params


def test_a_checkpoint_says_its_own_shape(tmp_path):
    fields = {
        "model_type": "chameleon",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**fields, "vocab_size": 100, "swin_norm": True, "num_key_value_heads": 2}))
    assert shape_of(str(tmp_path), 7) == Shape(64, 96, 2, 4, 2, vocab=100, swin_norm=True)
    config.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config\.json has no field 'vocab_size'"):
        shape_of(str(tmp_path), 7)
    with pytest.raises(ValueError, match=r"no checkpoint at .*gone .*or one of tiny, mini, small, 1b"):
        shape_of(str(tmp_path / "gone"), 7)
