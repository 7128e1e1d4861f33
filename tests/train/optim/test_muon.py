"""Muon and AdamW as one optimizer, against the formula that Rasterloom's own Muon was."""

import copy
from collections import defaultdict

import pytest
import torch

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.packed_lm import PackedLM, build_model
from rasterloom.train.monitoring.metrics_log import MetricsLog, read_metrics
from rasterloom.train.optim import deepspeed_engine
from rasterloom.train.optim.deepspeed_engine import parameter_groups, split_matrices
from rasterloom.train.optim.muon import MuonAdamW
from rasterloom.train.trainer import run_worker

BETAS = (0.9, 0.95)
ROUNDING = 0.02  # of an update: torch's Muon orthogonalises in bfloat16, the formula here in float32


class OldMuon(torch.optim.AdamW):
    """The Muon that earlier checkpoints were written with, as it was."""

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._step_matrices(group)

    def _step_matrices(self, group):
        alike = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape].append(p)
        for params in alike.values():
            directions = []
            for p in params:
                state = self.state[p]
                if not state:
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
                state["step"] += 1
                momentum = state["momentum"]
                momentum.lerp_(p.grad, 1 - 0.95)
                directions.append(p.grad.lerp(momentum, 0.95).flatten(1))
            scale = 0.2 * max(directions[0].shape) ** 0.5
            for p, update in zip(params, orthogonal(torch.stack(directions)), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-group["lr"] * scale)


def orthogonal(matrices):
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def pair(shape, weight_decay):
    """One matrix under the old optimizer, its twin under the new one."""
    p = torch.nn.Parameter(torch.randn(shape))
    q = torch.nn.Parameter(p.detach().clone())
    groups = lambda p: [{"params": [p], "weight_decay": weight_decay, "muon": True}]  # noqa: E731
    return p, OldMuon(groups(p), lr=0.01, betas=BETAS), q, MuonAdamW(groups(q), lr=0.01, betas=BETAS)


def assert_same_update(found, expected, start):
    update = (expected - start).norm()
    assert (found - expected).norm() < ROUNDING * update
    assert update > 0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (64, 176), (1, 32)])
def test_matrices_are_stepped_as_by_the_formula(shape, weight_decay):
    """Momentum, Nesterov's look ahead, scale and decay: one of them left out is off by far more than
    rounding."""
    torch.manual_seed(0)
    p, old, q, new = pair(shape, weight_decay)
    start = p.detach().clone()
    for number in range(6):
        p.grad = torch.randn(shape)
        q.grad = p.grad.clone()
        for group in (*old.param_groups, *new.param_groups):
            group["lr"] = 0.01 * (1 + number)  # it is set anew before each step
        old.step()
        new.step()
    assert_same_update(q.detach(), p.detach(), start)
    momenta = old.state[p]["momentum"], new.state[q]["momentum_buffer"]
    torch.testing.assert_close(*momenta, rtol=0, atol=0)


def test_matrices_of_the_layers_take_muons_step_and_the_rest_adamws(profile):
    torch.manual_seed(0)
    model = PackedLM(build_model("tiny", profile))
    twin, third = copy.deepcopy(model), copy.deepcopy(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p, q, r in zip(model.parameters(), twin.parameters(), third.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad, r.grad = p.grad.clone(), p.grad.clone()
    groups = split_matrices(model, parameter_groups(model, 0.1))
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    matrices = {id(p) for g in groups if g["muon"] for p in g["params"]}
    MuonAdamW(groups, lr=0.01, betas=BETAS).step()
    torch.optim.AdamW(parameter_groups(twin, 0.1), lr=0.01, betas=BETAS).step()
    OldMuon(split_matrices(third, parameter_groups(third, 0.1)), lr=0.01, betas=BETAS).step()
    by_adamw, by_old = dict(twin.named_parameters()), dict(third.named_parameters())
    for name, p in model.named_parameters():
        assert (id(p) in matrices) == ("_proj" in name), name
        if id(p) in matrices:
            assert_same_update(p.detach(), by_old[name].detach(), start[name])
        else:
            torch.testing.assert_close(p, by_adamw[name], rtol=0, atol=0, msg=name)


def test_a_model_whose_matrices_are_all_frozen_is_adamws(profile):
    model = PackedLM(build_model("tiny", profile))
    for name, p in model.named_parameters():
        p.requires_grad_("_proj" not in name)
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer = MuonAdamW(split_matrices(model, parameter_groups(model, 0.1)), lr=0.01, betas=BETAS)
    before = model.lm.lm_head.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.lm.lm_head.weight)


@pytest.mark.parametrize("written_by", ["old", "new"])
def test_a_state_of_either_muon_is_restored(written_by):
    torch.manual_seed(0)
    p, old, q, new = pair((16, 40), 0.1)
    for _ in range(3):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
        old.step()
        new.step()
    saved = copy.deepcopy((old if written_by == "old" else new).state_dict())  # else they share tensors
    again = torch.nn.Parameter(q.detach().clone())
    restored = MuonAdamW([{"params": [again], "weight_decay": 0.1, "muon": True}], lr=0.5, betas=BETAS)
    restored.load_state_dict(saved)
    q.grad = torch.randn_like(q)
    again.grad = q.grad.clone()
    new.step()
    restored.step()
    torch.testing.assert_close(again, q, rtol=0, atol=0)


class Crash(Exception):
    pass


@pytest.mark.usefixtures("one_rank")
def test_a_stage_that_the_old_muon_began_goes_on(new_job, monkeypatch):
    """From its checkpoint, to the losses that the old one would have come to."""
    stage = Stage(target=64, steps=8, lr=1e-2, warmup_steps=2, batch_tokens=300)
    given = {"heldout": 0.2, "checkpoint_every": 3, "optimizer": "muon", "deepspeed": DeepSpeed(zero=0)}
    job = new_job(stage, Train(stages=(stage,), **given), workers=1)
    whole = new_job(stage, job.train, workers=1, out_dir=f"{job.out_dir}-whole")
    write = MetricsLog.write

    def crash(self, *args, **kwargs):
        if kwargs["step"] == 5:
            raise Crash
        return write(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(deepspeed_engine, "MuonAdamW", OldMuon)
        run_worker(whole)
        patch.setattr(MetricsLog, "write", crash)
        with pytest.raises(Crash):
            run_worker(job)
    run_worker(job)
    losses, expected = ([r["loss"] for r in read_metrics(j.metrics_file)] for j in (job, whole))
    assert losses[:3] == expected[:3]
    assert losses == pytest.approx(expected, rel=5e-3)
