import json

import pytest
import torch
from peft import PeftModel
from transformers import ChameleonForConditionalGeneration

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import Stage, Train
from rasterloom.train.model.lora import merged, save_adapter
from rasterloom.train.model.packed_lm import save_model, training_model

IDS = torch.arange(30)


def model_with(init, profile, zero="auto", **lora):
    train = Train(
        stages=(Stage(target=64, steps=1),),
        init=init,
        dropout=0.0,
        model=Model(lora=Lora(rank=2, alpha=6, **lora), zero_image_head=zero),
    )
    return training_model(init, profile, train).train()


def trained(model):
    return {name for name, p in model.lm.named_parameters() if p.requires_grad}


def logits_of(lm):
    lm.set_attn_implementation("eager")
    with torch.no_grad():
        return lm.eval()(input_ids=IDS[None]).logits[0]


def learn(model):
    """A few steps, after which the adapters add something."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (model(IDS, IDS.roll(-1), [20, 10]).total / len(IDS)).backward()
        optimizer.step()


@pytest.fixture
def plain_logits(small_checkpoint):
    return logits_of(ChameleonForConditionalGeneration.from_pretrained(small_checkpoint))


def test_it_starts_as_the_model_that_it_starts_from(small_checkpoint, profile, plain_logits):
    ours, loss = model_with(small_checkpoint, profile), torch.nn.functional.cross_entropy
    _, nll, _ = ours(IDS, IDS.roll(-1), [30])
    torch.testing.assert_close(nll, loss(plain_logits, IDS.roll(-1), reduction="none"))


def test_adapters_alone_are_trained(small_checkpoint, profile):
    model = model_with(small_checkpoint, profile, targets=("q_proj", "up_proj"))
    start = {name: tensor.clone() for name, tensor in model.lm.state_dict().items()}
    assert trained(model) == {
        f"model.layers.0.{where}.lora_{side}.default.weight"
        for where in ("self_attn.q_proj", "mlp.up_proj")
        for side in "AB"
    }
    learn(model)
    changed = {name for name, t in model.lm.state_dict().items() if not torch.equal(t, start[name])}
    assert changed == trained(model)


def test_with_vocabulary_embeddings_and_head_are_trained_too(small_checkpoint, profile):
    model = model_with(small_checkpoint, profile, vocabulary=True)
    others = {name for name in trained(model) if "lora_" not in name}
    assert others == {"lm_head.weight", "model.embed_tokens.weight"}


@pytest.mark.parametrize("vocabulary", [False, True])
def test_merged_it_is_a_plain_model_and_the_adapter_is_peft_s(
    vocabulary, small_checkpoint, profile, tmp_path, plain_logits
):
    model = model_with(small_checkpoint, profile, vocabulary=vocabulary)
    learn(model)
    ours = logits_of(model.lm)
    assert not torch.allclose(ours, plain_logits, atol=0.01)

    lora = Lora(rank=2, alpha=6, vocabulary=vocabulary)
    save_model(model.lm, profile, tmp_path / "model", lora=lora)
    exported = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits_of(exported), ours)

    save_adapter(model.lm.state_dict(), lora, tmp_path / "adapter", base=small_checkpoint)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 2
    base = ChameleonForConditionalGeneration.from_pretrained(small_checkpoint)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(base, tmp_path / "adapter")), ours)


def test_without_adapters_nothing_is_merged(small_checkpoint):
    weights = {"a": torch.ones(2)}
    assert merged(weights, None) == weights


def test_the_seed_makes_the_adapters_and_nobody_else_s_random_numbers(small_checkpoint, profile):
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    torch.manual_seed(1)
    one = model_with(small_checkpoint, profile).lm.get_parameter(name)
    torch.manual_seed(2)
    same = model_with(small_checkpoint, profile).lm.get_parameter(name)
    assert torch.equal(one, same)


def test_image_rows_that_would_stay_zero_are_refused(small_checkpoint, profile):
    with pytest.raises(ValueError, match=r"would stay so; set train\.model\.lora\.vocabulary: true"):
        model_with(small_checkpoint, profile, zero="true")
    model_with(small_checkpoint, profile, zero="true", vocabulary=True)


def test_without_peft_it_says_what_to_install(small_checkpoint, profile, monkeypatch):
    monkeypatch.setattr("rasterloom.train.model.lora.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"takes peft: pip install 'rasterloom\[lora\]'"):
        model_with(small_checkpoint, profile)
