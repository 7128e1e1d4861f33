"""DeepSpeed: its configuration from the recipe, and full weights out of its shards."""

import logging
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rasterloom.recipe.train import Train
from rasterloom.train.deepspeed_compat import (
    StepGate,
    local_part,
    silence,
    whole_size,
    without_shm_extension,
)
from rasterloom.train.deepspeed_config import BETAS, BUCKET_ELEMENTS, deepspeed_config
from rasterloom.train.model.packed_lm import PackedLM
from rasterloom.train.optim.muon import MuonAdamW


def set_up_deepspeed(*, use_gpu: bool) -> None:
    """Make DeepSpeed ready: once torch.distributed is, and before a model is built; every rank calls this."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed insists on it, and launchers other than its own need not set it.
    os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if use_gpu else 0))
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed  # heavy

    without_shm_extension()
    deepspeed.init_distributed(dist_backend="nccl" if use_gpu else "gloo", verbose=False)


def start_deepspeed(model: PackedLM, train: Train, *, use_gpu: bool) -> Any:
    """Wrap a model into a DeepSpeed engine; every rank calls this.

    The engine averages gradients over ranks and clips them; the learning rate is set from outside, and so
    is the end of a step (see `backward`).
    """
    set_up_deepspeed(use_gpu=use_gpu)
    import deepspeed  # heavy

    elements = sum(whole_size(p) for p in model.parameters())
    config = deepspeed_config(train, bucket_elements=min(BUCKET_ELEMENTS, elements), use_gpu=use_gpu)
    groups = parameter_groups(model, train.weight_decay)
    given: dict[str, Any] = {"model_parameters": groups}
    if train.optimizer == "muon":
        groups = split_matrices(model, groups)
        parameters = [group["params"] for group in groups]  # ZeRO puts partitions in their place
        given["optimizer"] = MuonAdamW(groups, lr=1.0, betas=BETAS)
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")
        engine, *_ = deepspeed.initialize(model=model, config=config, **given)
    if train.optimizer == "muon" and train.deepspeed.zero:
        engine.basic_optimizer.shard(parameters)
    engine.step_gate = StepGate(engine)
    return engine


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: matrices and embeddings decay, the gains and biases of norms do not."""
    decayed = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)
    }
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in params if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # all of a group may be frozen


def split_matrices(model: PackedLM, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the layers' matrices, for Muon, out of the groups. Embeddings and head stay."""
    layers = model.lm.model.layers.modules()
    matrices = {id(module.weight) for module in layers if isinstance(module, nn.Linear)}
    split = []
    for group in groups:
        for muon in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == muon]
            if params:
                split.append({**group, "params": params, "muon": muon})
    return split


def backward(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add the gradients of one micro-batch to those of the step. Every rank calls this equally often.

    Args:
        last: it is the step's last micro-batch, `optimizer_step` comes next.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)


def optimizer_step(engine: Any, lr: float, accept: Callable[[float], bool]) -> float:
    """Clip, and take the step at this learning rate if accepted. Its gradients are gone either way.

    DeepSpeed computes the norm of the gradients within its step, just before the optimizer's own. So that
    is where it is asked for: a step that is not accepted leaves weights and optimizer as they were.

    Args:
        accept: is given the norm of the gradients before clipping, and answers the same on every rank.

    Returns:
        The norm of the gradients before clipping; infinite where it is not finite.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    plain = None
    if engine.zero_optimization_stage() == 0:  # DeepSpeed keeps no norm
        gradients = [p.grad for p in engine.parameters() if p.grad is not None]
        plain = float(torch.nn.utils.get_total_norm(gradients))

    gate: StepGate = engine.step_gate
    with gate.opened_by(lambda: accept(_finite(gate.norm() if plain is None else plain))):
        engine.step()
    return _finite(float(engine.get_global_grad_norm()) if plain is None else plain)


def _finite(norm: float) -> float:
    """A norm, infinite if not finite (DeepSpeed has -1 too)."""
    return norm if 0 <= norm < math.inf else math.inf


def weights_are_finite(engine: Any) -> bool:
    """True if all weights on all ranks are finite. Every rank calls this."""
    bad = torch.zeros((), device=engine.device)
    for parameter in engine.module.parameters():
        bad += (~torch.isfinite(local_part(parameter).detach())).any().to(bad.device)
    dist.all_reduce(bad)
    return not bad.item()


def full_weights(engine: Any, *, keep: bool) -> dict[str, Tensor]:
    """Gather the float32 weights of the language model; every rank calls this.

    Args:
        keep: return them; the other ranks take part and return nothing.
    """
    from deepspeed.utils import safe_get_full_fp32_param  # heavy

    weights = {}
    for name, parameter in engine.module.lm.named_parameters():
        full = safe_get_full_fp32_param(parameter)  # None where the parameter is whole on every rank
        if keep:
            weights[name] = (parameter if full is None else full).detach().to("cpu", torch.float32).clone()
    return weights
