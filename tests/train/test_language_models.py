"""A language model whose head is its embedding, under DeepSpeed: trained, resumed, exported."""

from dataclasses import replace

import pytest
import ranks
import torch
from language_models import write_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import DeepSpeed, Ema, Stage, Train
from rasterloom.tokenize.grown_vocabulary import read_tokenizer
from rasterloom.tokenize.text_tokenizer import text_of
from rasterloom.train.checkpoint.export import export_checkpoint
from rasterloom.train.checkpoint.saver import latest
from rasterloom.train.data.collate import IGNORE, pack
from rasterloom.train.data.dataloader import open_loader
from rasterloom.train.deepspeed_config import BETAS
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.monitoring.metrics_log import read_metrics

INIT = "qwen3-tiny"


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=4, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(
        stages=(stage,), init=INIT, heldout=0.2, cfg_drop=0.0, dropout=0.0, z_loss=0.0, checkpoint_every=2
    )
    return new_job(stage, train, rows=40, init=INIT)


def changed(job, **changes):
    return replace(job, train=job.train.model_copy(update=changes))


def losses(job):
    return [record["loss"] for record in read_metrics(job.metrics_file)]


def plain_losses(job):
    """Losses of a loop without DeepSpeed, one sequence after the other."""
    loader, model = open_loader(job), build_model(job.init, job.profile).train()
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": job.train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer, found = torch.optim.AdamW(groups, lr=job.stage.lr, betas=BETAS), []
    for batch in loader.plan.batches():
        packs = [pack([sample]) for sample in loader.rows.fetch(loader.trained[batch.rows])]
        count = sum(int((one.targets != IGNORE).sum()) for one in packs)
        loss = sum(
            cross_entropy(
                model(input_ids=torch.as_tensor(one.input_ids)[None]).logits[0],
                torch.as_tensor(one.targets),
                ignore_index=IGNORE,
                reduction="sum",
            )
            for one in packs
        )
        optimizer.zero_grad()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.train.grad_clip)
        optimizer.step()
        found.append(float(loss) / count)
    return found


@pytest.mark.parametrize(("zero", "then"), [(0, 2), (2, 3), (3, 1), (1, 0)])
def test_a_stage_is_that_of_a_plain_loop_under_any_zero_stage(job, zero, then):
    """2 ranks under one stage of ZeRO, then one under another."""
    expected = plain_losses(job)
    assert ranks.train(changed(job, deepspeed=DeepSpeed(zero=zero)), 2, stop_at=2) == "stopped"
    assert ranks.train(changed(job, deepspeed=DeepSpeed(zero=then)), 1) == "done"
    assert losses(job) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("zero", "bf16", "lora"),
    [
        (0, False, None),
        (1, True, None),
        (2, True, Lora(rank=2, vocabulary=True)),
        (3, True, None),
        (3, False, None),
    ],
)
def test_the_last_checkpoint_is_the_model_that_the_stage_ends_with(job, profile, tmp_path, zero, bf16, lora):
    job = changed(job, deepspeed=DeepSpeed(zero=zero, bf16=bf16), model=Model(lora=lora), ema=Ema(decay=0.5))
    ranks.train(job, 2)
    last = latest(job.checkpoint_store, job.digest())
    for average, ended in ((False, job.model_dir), (True, job.average_dir)):
        at = tmp_path / f"at-{average}"
        export_checkpoint(job.checkpoint_store, last, profile, at, lora=lora, average=average)
        ours, theirs = (load_file(folder / "model.safetensors") for folder in (at, ended))
        assert ours.keys() == theirs.keys() and "lm_head.weight" not in ours
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name
        plain = AutoModelForCausalLM.from_pretrained(at)
        assert plain.lm_head.weight is plain.model.embed_tokens.weight
        assert not torch.equal(plain.lm_head.weight, build_model(INIT, profile).lm_head.weight)


@pytest.mark.parametrize(("zero", "bf16"), [(2, False), (3, True)])
def test_adapters_beside_biases_are_trained_on_a_grown_vocabulary(job, tmp_path, zero, bf16):
    """Of a Qwen2, whose queries, keys and values have biases."""
    init = write_model(tmp_path / "qwen2", "qwen2", tied=True)
    config = Tokenize(text=init)
    _, profile = text_of(config, read_tokenizer(init, config.codec))
    lora = Lora(rank=2, vocabulary=True)
    job = changed(job, deepspeed=DeepSpeed(zero=zero, bf16=bf16), model=Model(lora=lora), init=init)
    job = replace(job, init=init, profile=profile)
    assert ranks.train(job, 2, stop_at=2) == "stopped"
    assert ranks.train(job, 1) == "done"
    model = AutoModelForCausalLM.from_pretrained(job.model_dir)
    before = AutoModelForCausalLM.from_pretrained(init)
    assert model.config.vocab_size == profile.vocab_size
    bias = "model.layers.1.self_attn.q_proj.bias"
    kept = before.get_parameter(bias).bfloat16().float() if bf16 else before.get_parameter(bias)
    assert torch.equal(model.get_parameter(bias), kept)
    seen = losses(job)
    assert seen[-1] < seen[0] - 0.1
