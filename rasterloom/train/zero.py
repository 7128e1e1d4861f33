"""DeepSpeed: its configuration from the recipe, and full weights out of its shards."""

import logging
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from rasterloom.recipe import Train
from rasterloom.train.model import PackedLM
from rasterloom.train.muon import Muon

BETAS = (0.9, 0.95)
BUCKET_ELEMENTS = 200_000_000  # gradients reduced at once, at most


def start_deepspeed(model: PackedLM, train: Train, *, use_gpu: bool) -> Any:
    """Wrap a model into a DeepSpeed engine; every rank calls this once torch.distributed is set up.

    The engine averages gradients over ranks and clips them; the learning rate is set from outside.
    """
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed insists on it, and launchers other than its own need not set it.
    os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if use_gpu else 0))
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    # Both are optional speed-ups that DeepSpeed would compile on the spot, which takes a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch_adam = {"torch_adam": not use_gpu}
    deepspeed.init_distributed(dist_backend="nccl" if use_gpu else "gloo", verbose=False)
    bucket = min(BUCKET_ELEMENTS, sum(p.numel() for p in model.parameters()))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**31,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": {
            "stage": train.deepspeed.zero,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "bf16": {"enabled": train.deepspeed.bf16},
    }
    groups = parameter_groups(model, train.weight_decay)
    given: dict[str, Any] = {"model_parameters": groups}
    if train.optimizer == "muon":
        given["optimizer"] = Muon(split_matrices(model, groups), lr=1.0, betas=BETAS)
    else:
        config["optimizer"] = {"type": "AdamW", "params": {"lr": 1.0, "betas": BETAS, **torch_adam}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine, *_ = deepspeed.initialize(model=model, config=config, **given)
    return engine


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: matrices and embeddings decay, the gains and biases of norms do not."""
    decayed = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)
    }
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in params if id(p) not in decayed], "weight_decay": 0.0},
    ]


def split_matrices(model: PackedLM, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the matrices of the layers, which Muon steps, out of the groups; embeddings and head stay."""
    layers = model.lm.model.layers.modules()
    matrices = {id(module.weight) for module in layers if isinstance(module, nn.Linear)}
    split = []
    for group in groups:
        for muon in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == muon]
            if params:
                split.append({**group, "params": params, "muon": muon})
    return split


def optimizer_step(engine: Any, lr: float) -> float:
    """Clip, take the step at this learning rate, and return the norm of the gradients before clipping."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    plain = None
    if engine.zero_optimization_stage() == 0 and not engine.bfloat16_enabled():  # DeepSpeed keeps no norm
        plain = torch.nn.utils.get_total_norm(p.grad for p in engine.parameters() if p.grad is not None)
    engine.step()
    return float(engine.get_global_grad_norm() if plain is None else plain)


def full_weights(engine: Any, *, keep: bool) -> dict[str, Tensor]:
    """Gather the float32 weights of the language model; every rank calls this.

    Args:
        keep: return them; the other ranks take part and return nothing.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in engine.module.lm.named_parameters():
        full = safe_get_full_fp32_param(parameter)  # None where the parameter is whole on every rank
        if keep:
            weights[name] = (parameter if full is None else full).detach().to("cpu", torch.float32).clone()
    return weights
