import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import ChameleonForConditionalGeneration

from rasterloom.train.data.collate import IGNORE
from rasterloom.train.model.packed_lm import PackedLM, build_model, save_model, tiny_config


def ragged(lengths, vocab, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, vocab, (n,), generator=generator) for n in lengths]
    targets = [torch.cat([x[1:], torch.tensor([IGNORE])]) for x in ids]
    for x in targets:
        x[: len(x) // 3] = IGNORE  # as if of a prompt
    return ids, targets


@pytest.fixture
def swin_checkpoint(tmp_path, profile):
    """A small Chameleon with its norms after attention and MLP, as the 34B one has them."""
    config = tiny_config(profile)
    config.swin_norm, config.num_hidden_layers = True, 2
    config.hidden_size, config.intermediate_size, config.num_key_value_heads = 32, 48, 2
    torch.manual_seed(1)
    ChameleonForConditionalGeneration(config).save_pretrained(tmp_path / "swin")
    return str(tmp_path / "swin")


@pytest.fixture(params=["tiny", "grouped heads", "swin norm"])
def init(request, small_checkpoint, swin_checkpoint):
    return {"tiny": "tiny", "grouped heads": small_checkpoint, "swin norm": swin_checkpoint}[request.param]


def test_concatenated_equals_padded_in_loss_and_gradients(init, profile):
    lengths = [40, 37, 36, 20, 5, 5]
    ids, targets = ragged(lengths, profile.vocab_size)

    packed = PackedLM(build_model(init, profile), z_loss=0.01)
    total, nll, _ = packed(torch.cat(ids), torch.cat(targets), lengths)
    loss = total / len(nll)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in packed.lm.named_parameters()}

    lm = packed.lm
    lm.zero_grad()
    lm.set_attn_implementation("eager")
    padded = torch.full((len(lengths), max(lengths)), profile.pad)
    labels = torch.full_like(padded, IGNORE)
    for i, (x, y) in enumerate(zip(ids, targets, strict=True)):
        padded[i, : len(x)], labels[i, : len(y)] = x, y
    logits = lm.lm_head(lm.model(input_ids=padded, use_cache=False).last_hidden_state).flatten(0, 1)
    counted = labels.flatten() != IGNORE
    plain = cross_entropy(logits, labels.flatten(), ignore_index=IGNORE)
    plain = plain + 0.01 * logits[counted].logsumexp(-1).square().mean()
    plain.backward()

    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_plain_transformers_loads_what_is_saved(tmp_path, profile, init):
    model = PackedLM(build_model(init, profile, seed=3)).eval()
    save_model(model.lm, profile, tmp_path / "model")
    plain = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    lengths = [30, 20]
    ids = torch.arange(50) % profile.vocab_size
    with torch.no_grad():
        _, nll, z = model(ids, ids.roll(-1), lengths)
        logits = torch.cat([plain(input_ids=part[None]).logits[0] for part in ids.split(lengths)])
    torch.testing.assert_close(nll, cross_entropy(logits, ids.roll(-1), reduction="none"))
    torch.testing.assert_close(z, logits.logsumexp(-1).square())  # image tokens are not masked
    assert json.loads((tmp_path / "model/profile.json").read_text())["boi"] == profile.boi


def test_config_and_tensors_agree_whatever_it_started_from(tmp_path, profile, small_checkpoint):
    """Of a checkpoint in bf16, as Meta's and Lumina-mGPT's are, the trained model is float32."""
    half = tmp_path / "half"
    ChameleonForConditionalGeneration.from_pretrained(small_checkpoint).bfloat16().save_pretrained(half)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    model = build_model(str(half), profile).eval()
    save_model(model, profile, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "float32"
    plain = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model", dtype="auto").eval()
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    ids = torch.arange(30)[None] % profile.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, model(input_ids=ids).logits)


def test_what_is_saved_is_what_was_loaded(tmp_path, profile, init):
    model = build_model(init, profile)
    save_model(model, profile, tmp_path / "model")
    again = build_model(str(tmp_path / "model"), profile)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_image_encoder_is_not_kept(small_checkpoint, profile):
    for init in ("tiny", small_checkpoint):
        assert not [name for name, _ in build_model(init, profile).named_parameters() if "vqmodel" in name]


def test_the_seed_makes_the_weights(profile):
    one, same, other = (build_model("tiny", profile, seed=s).lm_head.weight for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_residual_dropout_acts_in_training_only(profile):
    ids, targets = ragged([20, 9], profile.vocab_size)
    model = PackedLM(build_model("tiny", profile), residual_dropout=0.5)
    plain = PackedLM(build_model("tiny", profile))
    batch = torch.cat(ids), torch.cat(targets), [20, 9]
    with torch.no_grad():
        assert not torch.allclose(model(*batch).nll, plain(*batch).nll)
        torch.testing.assert_close(model.eval()(*batch).nll, plain(*batch).nll)
