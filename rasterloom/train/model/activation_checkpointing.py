"""Activation checkpointing and compilation, layer by layer.

What a layer keeps for the backward pass is most of a training step's memory. ``full`` keeps its input alone
and computes the whole layer again: a third more to compute. ``selective`` keeps what attention and the
projections around it gave (torch's selective checkpointing), and computes again the wide MLP, the norms and
the rotation, which are two thirds of the memory; attention itself never runs twice.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Part of the name of every attention kernel: aten's, torch's, flash-attn's.
ATTENTION = ("attention", "attn")
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm")


def prepare_layers(
    layers: nn.ModuleList, *, remat: Literal["none", "selective", "full"], compiled: bool
) -> None:
    """Set up activation checkpointing of each layer, and compile it.

    What ``full`` computes again is the compiled layer. ``selective`` is compiled with the layer: the policy
    tells the compiler what to keep. Where attention is no operator of the graph, such a layer runs as it is,
    because what a checkpoint holds is compiled whole or not at all. Without gradients, as for held-out losses
    and previews, layers run as they are: each kind of inputs would be compiled anew.
    """
    if compiled and remat == "selective":  # it warns of operators in place, of which layers have none
        logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
    for layer in layers:
        forward = layer.forward
        if remat == "selective":
            forward = _checkpointed(layer, forward, selective=True)
        if compiled:
            forward = _for_training(torch.compile(forward, dynamic=True), forward)
        if remat == "full":
            forward = _checkpointed(layer, forward, selective=False)
        layer.forward = forward


def _for_training(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*args, **kwargs)

    return run


def _checkpointed(layer: Any, forward: Callable[..., Any], *, selective: bool) -> Callable[..., Any]:
    width: int = max(layer.hidden_size, layer.self_attn.o_proj.in_features)

    def context() -> Any:  # no partial: within a graph its number would be no constant
        return create_selective_checkpoint_contexts(partial(_policy, width))  # type: ignore[no-untyped-call]

    options: dict[str, Any] = {"context_fn": context} if selective else {}

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **options, **kwargs)

    return run


def _policy(width: Any, _: Any, op: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    """Keep attention, and products no wider than the hidden states: of a layer's all but the MLP's inner."""
    name = op.name()
    if any(part in name for part in ATTENTION):
        return CheckpointPolicy.MUST_SAVE
    if name.split(".")[0] in MATRIX_PRODUCTS and args[-1].shape[-1] <= width:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
