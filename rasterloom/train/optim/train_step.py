"""One optimizer step on a global batch, in micro-batches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from rasterloom.train.data.collate import IGNORE, Packed
from rasterloom.train.monitoring.metrics_log import StepSums
from rasterloom.train.monitoring.tally import Tally
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step


def train_step(
    engine: Any,
    parts: Sequence[Packed],
    device: torch.device,
    tally: Tally,
    *,
    lr: float,
    refuse: Callable[[float, float], str | None] = lambda loss, norm: None,
) -> StepSums:
    """Take one optimizer step on a global batch. Every rank calls this with equally many micro-batches.

    The gradient is that of the mean over all tokens of the global batch that count, whatever rank and
    micro-batch they are in.

    Args:
        parts: this rank's micro-batches.
        tally: is told of their tokens' losses.
        refuse: is given the loss and the norm of its gradients; the step is taken unless it returns a reason.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    counts = torch.zeros(1 + world, dtype=torch.float64, device=device)
    counts[0] = sum(int((part.targets != IGNORE).sum()) for part in parts)
    counts[1 + rank] = sum(sum(part.lengths) for part in parts if part.order)
    dist.all_reduce(counts)
    count, *tokens = counts.tolist()
    # DeepSpeed averages gradients over the ranks; times their number that is the sum, and divided by the
    # number of targets in the global batch it is the mean over these.
    scale = world / max(count, 1)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for number, part in enumerate(parts, start=1):
        ids, targets = (torch.from_numpy(x).to(device) for x in (part.input_ids, part.targets))
        part_loss, nll, z_terms = engine(ids, targets, part.lengths)
        tally.add(nll, part)
        backward(engine, part_loss * scale, last=number == len(parts))
        sums += torch.stack([nll.double().sum(), z_terms.double().sum()])
    dist.all_reduce(sums)
    loss, z = (sums / max(count, 1)).tolist()
    grad_norm = optimizer_step(engine, lr, lambda norm: not refuse(loss, norm))
    return StepSums(
        loss=loss,
        z=z,
        grad_norm=grad_norm,
        tokens=int(sum(tokens)),
        loss_tokens=int(count),
        useful_share=sum(tokens) / (world * max(tokens)),
    )
