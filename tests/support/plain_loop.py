"""A stage as the plainest loop in float32: one process, no DeepSpeed, one document after the other."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import ChameleonForConditionalGeneration

from rasterloom.train.data.collate import IGNORE, pack
from rasterloom.train.data.dataloader import open_loader
from rasterloom.train.deepspeed_config import BETAS


def plain_loop(job, without=(), on_step=lambda model: None):
    """Losses, norms of the gradients, and the weights after all steps. The dropout must be 0.

    ``without``: steps, counted from 1, whose batch is passed over. ``on_step`` is given the model before the
    first step and after each that is taken.
    """
    feed = open_loader(job)
    model = ChameleonForConditionalGeneration.from_pretrained(job.init, attn_implementation="eager")
    model.model.vqmodel = None
    model.train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    # Norms of queries and keys have a gain for each head and so two dimensions, but are no matrices.
    norms = [p for n, p in model.named_parameters() if "norm" in n]
    matrices = [p for p in matrices if not any(p is norm for norm in norms)]
    groups = [
        {"params": matrices, "weight_decay": job.train.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    assert len(matrices) + len(norms) == len(list(model.parameters()))
    optimizer = torch.optim.AdamW(groups, lr=job.stage.lr, betas=BETAS, foreach=False)
    losses, grad_norms = [], []
    on_step(model)
    for batch in feed.plan.batches():
        if batch.step + 1 in without:
            losses.append(None)
            grad_norms.append(None)
            continue
        documents = [pack([sample]) for sample in feed.rows.fetch(feed.trained[batch.rows])]
        count = sum(int(np.count_nonzero(d.targets != IGNORE)) for d in documents)
        loss = 0.0
        optimizer.zero_grad()
        for document in documents:
            hidden = model.model(torch.from_numpy(document.input_ids)[None]).last_hidden_state[0]
            targets = torch.from_numpy(document.targets)
            logits = model.lm_head(hidden)[targets != IGNORE]
            nll = cross_entropy(logits, targets[targets != IGNORE], reduction="sum")
            z = logits.logsumexp(-1).square().sum()
            ((nll + job.train.z_loss * z) / count).backward()
            loss += nll.item() / count
        grad_norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), job.train.grad_clip)))
        losses.append(loss)
        optimizer.step()
        on_step(model)
    return losses, grad_norms, {name: p.detach() for name, p in model.named_parameters()}
