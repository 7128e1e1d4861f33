"""Estimate of a stage: steps, tokens, FLOPs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rasterloom.recipe.train import Train
from rasterloom.train.data.batching import LINEAR_COST, assign_to_ranks
from rasterloom.train.data.stage_data import StageData
from rasterloom.train.estimate.flops import train_flops
from rasterloom.train.model.shapes import Shape

BATCHES_DEALT = 16  # of a stage, to tell how evenly its ranks come out


@dataclass(frozen=True)
class Estimate:
    """Estimated size and cost of a stage."""

    rows: int
    """Rows to train on."""
    held: int
    """Rows held out."""
    epoch_tokens: int
    """Tokens of an epoch."""
    tokens: int
    """Tokens of the whole stage."""
    steps: int
    epochs: float
    """How many times the tokens of an epoch are trained on."""
    useful_share: float
    """Mean tokens of a rank / most tokens of a rank, over a batch's ranks: the others wait for that one."""
    even_share: float
    """The same of the cost that ranks are balanced by."""
    micro_batches: int
    """Micro-batches a rank, at most, in the batches looked at."""
    rank_tokens: int
    """The most tokens that a rank computes at once."""
    by_task: Mapping[str, int]
    """Tokens of the stage."""
    by_bucket: Mapping[str, int]
    flops: float


def estimate(data: StageData, shape: Shape, train: Train, workers: int) -> Estimate:
    """Add up the batches of a stage.

    All tokens are taken to be in the loss, which prompts are not: a little too many FLOPs.
    """
    plan, lengths = data.plan, data.plan.lengths
    came = np.zeros(len(lengths), np.int64)
    shares, evens, parts, most = [], [], 1, 0
    every = max(1, plan.steps // BATCHES_DEALT)
    for step, _, rows, _ in plan.batches():
        np.add.at(came, rows, 1)
        if step % every == 0:
            dealt = assign_to_ranks(rows, lengths, workers, train.tokens_at_once)
            tokens = np.array([sum(int(lengths[part].sum()) for part in of_rank) for of_rank in dealt])
            costs = [sum(_cost(lengths[part]) for part in of_rank) for of_rank in dealt]
            shares.append(tokens.mean() / max(1, tokens.max()))
            evens.append(np.mean(costs) / max(1.0, max(costs)))
            parts = max(parts, len(dealt[0]))
            most = max(most, *(int(lengths[part].sum()) for of_rank in dealt for part in of_rank))
    trained = lengths * came
    epoch_tokens = int(sum(lengths[rows].sum() for rows in plan.epoch(0)))
    total = int(trained.sum())
    rows_of = data.rows
    return Estimate(
        rows=len(data.train),
        held=len(data.held),
        epoch_tokens=epoch_tokens,
        tokens=total,
        steps=plan.steps,
        epochs=total / epoch_tokens,
        useful_share=float(np.mean(shares)),
        even_share=float(np.mean(evens)),
        micro_batches=parts,
        rank_tokens=most,
        by_task=_sums(rows_of.task_names, rows_of.task_numbers[data.train], trained),
        by_bucket=_sums(rows_of.bucket_names, rows_of.bucket_numbers[data.train], trained),
        flops=train_flops(shape, tokens=total, squares=int((trained * lengths).sum()), loss_tokens=total),
    )


def _cost(lengths: NDArray[np.int64]) -> float:
    return float((LINEAR_COST * lengths + lengths * lengths).sum())


def _sums(names: Sequence[str], numbers: NDArray[np.int32], tokens: NDArray[np.int64]) -> dict[str, int]:
    """Tokens by name, most first, without those that have none."""
    found = np.bincount(numbers, weights=tokens, minlength=len(names))
    order = np.argsort(-found, kind="stable")
    return {names[i]: int(found[i]) for i in order if found[i]}
