"""Loss on the held-out rows: in all, by task, and by bucket."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.train.data.batching import balance, plan_batches
from rasterloom.train.data.captions import fixed_caption
from rasterloom.train.data.collate import pack
from rasterloom.train.data.groups import Groups
from rasterloom.train.data.token_dataset import TokenRows
from rasterloom.train.monitoring.tally import Tally


@torch.no_grad()
def evaluate(
    model: Any, rows: TokenRows, held: NDArray[np.int64], batch_tokens: int, device: torch.device
) -> dict[str, Any]:
    """Measure the mean -log p(token) of rows, prompts included. Every rank calls this, if there are ranks.

    A row with several captions has the same one each time.

    Args:
        model: a `PackedLM`, or DeepSpeed's engine around one.
        held: row numbers, [n].

    Returns:
        As `Groups.losses`; without rows no task and no bucket, and a loss of None.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    tally = Tally(Groups.of(rows), device)
    lengths = rows.lengths[held]
    batches = plan_batches(lengths, seed=0, epoch=0, batch_tokens=max([batch_tokens, *lengths.tolist()]))
    model.eval()
    for batch in batches:
        mine = held[balance(batch, lengths, world)[rank]]
        samples, names = rows.fetch(mine), None
        if rows.captions is not None:
            chosen = [fixed_caption(sample, rows.captions) for sample in samples]
            names, samples = [name for name, _ in chosen], [sample for _, sample in chosen]
        packed = pack(samples, tally.groups.of_rows(rows, mine, tally.groups.known(names)))
        ids, targets = (torch.from_numpy(x).to(device) for x in (packed.input_ids, packed.targets))
        *_, nll, _ = model(ids, targets, packed.lengths)
        tally.add(nll, packed)
    model.train()
    return tally.groups.losses(tally.read().by_cell)
