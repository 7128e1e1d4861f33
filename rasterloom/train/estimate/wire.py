"""Bytes that a worker sends in a step, without torch."""

from rasterloom.recipe.train import Train
from rasterloom.train.deepspeed_config import deepspeed_config


def bytes_sent(train: Train, params: int, trained: int, workers: int, micro_batches: int) -> float:
    """Bytes that a GPU sends in a step: gradients, and weights.

    ZeRO 0 and 1 sum gradients up on all ranks once a step, which takes each rank twice its gradients; ZeRO 2
    and 3 send them after each micro-batch to the rank that keeps them. ZeRO 1 and 2 send the new weights
    once, ZeRO 3 all of them in each forward and in each backward pass.

    Args:
        train: its precision is settled.
        trained: of the parameters, those that are trained.
        micro_batches: of a step.
    """
    zero, width = train.deepspeed.zero, 2 if train.deepspeed.bf16 else 4
    sent = 2 if deepspeed_config(train, use_gpu=True)["communication_data_type"] == "bf16" else 4
    others = (workers - 1) / workers
    if zero == 0:
        return 2 * 4 * trained * others
    gradients = sent * trained * (micro_batches if zero >= 2 else 2)
    weights = width * (2 * micro_batches * params if zero == 3 else trained)
    return (gradients + weights) * others
