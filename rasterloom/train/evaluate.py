"""Loss on the held-out rows, in all and a bucket."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.train.plan import balance, plan_batches
from rasterloom.train.rows import TokenRows
from rasterloom.train.samples import IGNORE, pack


@torch.no_grad()
def evaluate(
    engine: Any, rows: TokenRows, held: NDArray[np.int64], batch_tokens: int, device: torch.device
) -> dict[str, Any]:
    """Measure the mean -log p(token) of rows, prompts included; every rank calls this.

    Args:
        held: row numbers, [n].

    Returns:
        ``{"all": {loss, tokens, rows}, "buckets": {"<width>x<height>": the same}}``; without rows no
        bucket, and a loss of None.
    """
    names = sorted(set(rows.buckets(held)))
    sums = torch.zeros(len(names), 3, dtype=torch.float64, device=device)  # loss, tokens, rows
    lengths = rows.lengths[held]
    batches = plan_batches(lengths, seed=0, epoch=0, batch_tokens=max([batch_tokens, *lengths.tolist()]))
    engine.eval()
    for batch in batches:
        mine = held[balance(batch, lengths, dist.get_world_size())[dist.get_rank()]]
        packed = pack(rows.fetch(mine))
        targets = torch.from_numpy(packed.targets)
        _, nll, _ = engine(torch.from_numpy(packed.input_ids).to(device), targets.to(device), packed.lengths)
        buckets = [names.index(name) for name in rows.buckets(mine[packed.order])]
        if not buckets:
            continue
        of_bucket = torch.tensor(buckets).repeat_interleave(torch.tensor(packed.lengths))[targets != IGNORE]
        of_bucket = of_bucket.to(device)
        sums[:, 0].index_add_(0, of_bucket, nll.double())
        sums[:, 1].index_add_(0, of_bucket, torch.ones_like(nll, dtype=torch.float64))
        sums[:, 2] += torch.bincount(torch.tensor(buckets), minlength=len(names)).to(device)
    engine.train()
    dist.all_reduce(sums)
    return {
        "all": _losses(sums.sum(dim=0)),
        "buckets": {name: _losses(part) for name, part in zip(names, sums, strict=True)},
    }


def _losses(sums: torch.Tensor) -> dict[str, float | int | None]:
    loss, tokens, rows = sums.tolist()
    return {"loss": loss / tokens if tokens else None, "tokens": int(tokens), "rows": int(rows)}
