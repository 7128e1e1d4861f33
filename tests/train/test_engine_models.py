"""The ways to hold and train a model (`train.model`) under DeepSpeed, whatever it shards."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import ChameleonForConditionalGeneration

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.job import StageJob
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.trainer import run_worker

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def train_with(tmp_path, write_tokens, profile, small_checkpoint):
    """Train a few steps; return the losses and the folder of the model."""
    tokens = write_tokens(20)

    def run(name: str, zero: int, bf16: bool = False, **options) -> tuple[list[float], Path]:
        stage = Stage(target=64, steps=4, lr=1e-2, warmup_steps=1, batch_tokens=300)
        train = Train(
            stages=(stage,),
            heldout=0.0,
            dropout=0.0,
            deepspeed=DeepSpeed(zero=zero, bf16=bf16),
            model=Model(**options),
            init=small_checkpoint,
        )
        job = StageJob(
            stage=stage,
            train=train,
            profile=profile,
            token_files=(tokens,),
            filesystem=None,
            tokens_snapshot="1",
            init=small_checkpoint,
            out_dir=str(tmp_path / name),
            workers=1,
        )
        run_worker(job)
        return [record["loss"] for record in read_metrics(job.metrics_file)], job.model_dir

    return run


def test_what_is_computed_again_changes_nothing_under_zero_3(train_with):
    plain, _ = train_with("plain", 2)
    for remat in ("selective", "full"):
        losses, _ = train_with(remat, 3, remat=remat)
        assert losses == pytest.approx(plain, abs=1e-5)
    assert plain[-1] < plain[0] - 0.1


@pytest.mark.parametrize(("zero", "bf16"), [(0, False), (2, True), (3, False)])
def test_lora_trains_and_leaves_a_plain_model_and_its_adapter(zero, bf16, train_with, small_checkpoint):
    lora = Lora(rank=4, alpha=16, vocabulary=True)
    losses, folder = train_with("lora", zero, bf16, lora=lora)
    assert losses[-1] < losses[0] - 0.1
    ids = torch.arange(30)[None]
    with torch.no_grad():
        merged = ChameleonForConditionalGeneration.from_pretrained(folder).eval()
        start = ChameleonForConditionalGeneration.from_pretrained(small_checkpoint).eval()
        assert torch.equal(merged.model.norm.weight, start.model.norm.weight) or bf16
        before = start(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(start, folder / "adapter").eval()
        tolerance = 1e-2 if bf16 else 1e-5  # what is frozen is rounded to bf16 and so exported
        torch.testing.assert_close(
            adapted(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=tolerance, atol=tolerance
        )
        assert not torch.allclose(merged(input_ids=ids).logits, before, atol=0.05)
