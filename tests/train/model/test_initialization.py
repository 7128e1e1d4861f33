"""What training starts from: sizes by name, and checkpoints whatever their files are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ChameleonForConditionalGeneration

from rasterloom.train.model.initialization import (
    build_model,
    check_checkpoint,
    image_ids,
    masks_images,
    tiny_config,
)
from rasterloom.train.model.shapes import SIZES, shape_of
from rasterloom.train.model.tensor_reader import open_weights

HEAD = "lm_head.weight"
NORM = "model.layers.0.self_attn.q_norm.weight"


def edit_config(folder: str, **fields) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def edit_weights(folder: str, edit) -> None:
    file = Path(folder) / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_parameters_that_its_shape_says(size, profile):
    model = build_model(size, profile, device="meta")
    assert sum(p.numel() for p in model.parameters()) == shape_of(size, profile.vocab_size).params
    assert getattr(model.config, "swin_norm", False) == size.endswith("34b")
    assert model.lm_head.weight.is_meta


def test_a_size_by_name_is_drawn_from_the_seed(profile, monkeypatch):
    monkeypatch.setitem(SIZES, "small", replace(SIZES["small"], hidden=64, intermediate=96, layers=2))
    one, same, other = (build_model("small", profile, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert float(one.model.layers[1].mlp.up_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert (one.model.norm.weight == 1).all()
    assert all(p.requires_grad for p in one.parameters())
    ids = torch.arange(12)[None]
    assert torch.isfinite(one(input_ids=ids).logits).all()


def test_building_leaves_the_random_numbers_of_others_alone(profile):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model("tiny", profile, seed=1)
    assert torch.equal(torch.rand(3), expected)


def as_sharded_safetensors(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def as_pytorch(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_half_precision(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("rewrite", [None, as_sharded_safetensors, as_pytorch, in_half_precision])
def test_a_checkpoint_loads_whatever_its_files(rewrite, small_checkpoint, profile):
    plain = ChameleonForConditionalGeneration.from_pretrained(small_checkpoint, dtype=torch.float32)
    if rewrite is not None:
        rewrite(Path(small_checkpoint))
    check_checkpoint(small_checkpoint, profile)
    ours = build_model(small_checkpoint, profile)
    for name, parameter in ours.named_parameters():
        expected = plain.get_parameter(name)
        if rewrite is in_half_precision:
            expected = expected.bfloat16().float()
        assert torch.equal(parameter, expected), name
        assert parameter.dtype == torch.float32


def test_lumina_mgpt_loads_with_its_names_and_shared_norms(tmp_path, profile):
    """Its checkpoints have no image encoder, old fields in the config, constants among the weights, and one
    row of a head's norm for all heads of a shard (xllmx's ChameleonLayerNorm repeats it)."""
    config = tiny_config(profile)
    config.num_attention_heads, config.num_key_value_heads, config.swin_norm = 8, 4, True
    config.num_hidden_layers = 1
    torch.manual_seed(0)
    plain = ChameleonForConditionalGeneration(config)
    shared, repeats = {}, {"q_norm": 4, "k_norm": 2}
    for name, parameter in plain.named_parameters():
        for norm, times in repeats.items():
            if f".{norm}." in name:
                rows = torch.randn(2, 16)  # of two shards
                parameter.data = rows.repeat_interleave(times, dim=0)
                shared[name] = rows
    weights = {k: shared.get(k, v) for k, v in plain.state_dict().items() if "vqmodel" not in k}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors")
    fields = config.to_dict()
    rope = fields.pop("rope_parameters")
    fields |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "model_parallel_size": 2}
    fields |= {"mask_image_logits": False, "dropout": 0.05, "z_loss_weight": 1e-5}
    fields |= {"architectures": ["ChameleonXLLMXForConditionalGeneration"]}
    fields |= {"vocabulary_map": {"IMGIMGAZ": profile.image0}}
    (tmp_path / "config.json").write_text(json.dumps(fields))

    ours = build_model(str(tmp_path), profile).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("given", "fields", "zeros"),
    [
        ("auto", {}, False),
        ("auto", {"vocabulary_map": {"IMGIMGAZ": 4, "<s>": 0}}, True),
        ("auto", {"vocabulary_map": {"IMGIMGAZ": 4}, "mask_image_logits": True}, True),
        ("auto", {"vocabulary_map": {"IMGIMGAZ": 4}, "mask_image_logits": False}, False),
        ("auto", {"vocabulary_map": {"<s>": 0}}, False),
        ("false", {"vocabulary_map": {"IMGIMGAZ": 4}}, False),
        ("true", {}, True),
    ],
)
def test_image_rows_of_the_head_start_as_zeros_where_they_mean_nothing(
    given, fields, zeros, small_checkpoint, profile
):
    edit_config(small_checkpoint, **fields)
    model = build_model(small_checkpoint, profile, zero_image_head=given)
    rows = model.lm_head.weight[image_ids(profile)]
    assert bool((rows == 0).all()) == zeros
    others = [i for i in range(profile.vocab_size) if i not in image_ids(profile).tolist()]
    assert (model.lm_head.weight[others] != 0).any(dim=1).all()


def test_what_we_save_is_not_taken_for_a_model_that_never_drew(profile, tmp_path):
    from rasterloom.train.model.packed_lm import save_model

    save_model(build_model("tiny", profile), profile, tmp_path)
    assert not masks_images(json.loads((tmp_path / "config.json").read_text()))


def test_what_does_not_fit_is_named(tmp_path, profile, small_checkpoint):
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere .*or one of tiny, mini, small"):
        build_model(str(tmp_path / "nowhere"), profile)
    with pytest.raises(ValueError, match=r"a vocabulary of 48, but .* profile 'test' with 60"):
        build_model(small_checkpoint, replace(profile, vocab_size=60))
    edit_config(small_checkpoint, model_type="gpt2")
    with pytest.raises(ValueError, match="a model of type 'gpt2', but takes chameleon"):
        build_model(small_checkpoint, profile)


def drop_norm(weights):
    del weights["model.norm.weight"]


def drop_layers(weights):
    for name in [name for name in weights if name.startswith("model.layers.")]:
        del weights[name]


def add(weights):
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)


def cut_head(weights):
    weights[HEAD] = weights[HEAD][:, :16].clone()


def spoil_norm(weights):
    weights[NORM] = torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_norm, r"missing: model\.norm\.weight$"),
        (drop_layers, r"missing: model\.layers\.0\S*, model\.layers\.0\S*, model\.layers\.0\S* and 10 more$"),
        (add, r"of no use: model\.layers\.7\.mlp\.up_proj\.weight$"),
        (cut_head, r"of another shape: lm_head\.weight \[48, 16\] where the model has \[48, 32\]$"),
        (spoil_norm, r"of another shape: .*q_norm\.weight \[3, 8\] where the model has \[4, 8\]$"),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(spoil, message, small_checkpoint, profile):
    edit_weights(small_checkpoint, spoil)
    for attempt in (build_model, check_checkpoint):
        with pytest.raises(ValueError, match=message) as raised:
            attempt(small_checkpoint, profile)
        assert "\n" not in str(raised.value)


def test_files_that_are_not_there_are_named(small_checkpoint, profile):
    folder = Path(small_checkpoint)
    as_sharded_safetensors(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names files that are not there: model-00002-of-00002"):
        build_model(small_checkpoint, profile)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"no weights in .* \(expected model\.safetensors or pytorch_model"):
        open_weights(folder)
