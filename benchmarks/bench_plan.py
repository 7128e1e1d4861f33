"""Batching by the planner, against other ways: useful tokens, evenness of ranks, CPU time; prints tables.

python benchmarks/bench_plan.py [rows]

Lengths are those of the buckets: images whose aspect ratios spread around a square as photographs' do
(log-normal, sigma 0.45), in the bucket that fits, with captions of 8 to 450 tokens (log-normal, median 67).
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.profiles import CHAMELEON
from rasterloom.tokenize.unirep import image_length
from rasterloom.train.data.batching import LINEAR_COST, balance, plan_batches
from rasterloom.train.data.stage_plan import BatchSize, Mixture, StageLength, stage_plan

TARGETS = (512, 768, 1024)
ROWS_A_RANK = 8  # of a global batch: the paper's 256 over 32
RANK_TOKENS = 16_384  # of a global batch, where it is counted in tokens
BATCHES = 8  # looked at
BIN = 16_384

Lengths = NDArray[np.int64]


def bucket_lengths(target: int, rows: int, rng: np.random.Generator) -> Lengths:
    sizes = sorted(bucket_sizes(target), key=lambda size: size[0] / size[1])
    ratios = np.array([width / height for width, height in sizes])
    borders = np.sqrt(ratios[1:] * ratios[:-1])
    bucket = np.searchsorted(borders, np.exp(rng.normal(0, 0.45, rows)))
    pictures = np.array([image_length(*size, CHAMELEON) for size in sizes])
    captions = np.clip(np.exp(rng.normal(4.2, 0.7, rows)), 8, 450).astype(np.int64)
    return pictures[bucket] + captions


def cost(lengths: Lengths) -> int:
    return int((LINEAR_COST * lengths + lengths * lengths).sum())


def even(loads: Sequence[float]) -> float:
    return float(np.mean(loads) / np.max(loads))


@dataclass(frozen=True)
class Planned:
    """Means over some batches."""

    useful: float
    bound: float  # of useful tokens, whoever deals these batches out
    costs: float  # mean of the ranks / most
    rows: float  # of a rank
    seconds: float  # of `balance`


def planned(lengths: Lengths, ranks: int, rank_tokens: float, rows_multiple: int = 1) -> Planned:
    tokens = int(ranks * rank_tokens)
    batches = plan_batches(lengths, seed=0, epoch=0, batch_tokens=tokens, rows_multiple=rows_multiple)
    batches = batches[:BATCHES]
    began = time.process_time()
    dealt = [balance(rows, lengths, ranks) for rows in batches]
    spent = (time.process_time() - began) / len(batches)
    bounds = [lengths[rows].sum() / ranks / least_load(lengths[rows], ranks) for rows in batches]
    return Planned(
        useful=float(np.mean([even([lengths[share].sum() for share in shares]) for shares in dealt])),
        bound=float(np.mean(bounds)),
        costs=float(np.mean([even([cost(lengths[share]) for share in shares]) for shares in dealt])),
        rows=float(np.mean([len(rows) for rows in batches])) / ranks,
        seconds=spent,
    )


def least_load(tokens: Lengths, ranks: int) -> float:
    """A bound below the most loaded rank's load: the largest of

    - the mean, and the longest row;
    - of the j * ranks + 1 longest rows some rank has j + 1, which are no shorter than the last j + 1 of them;
    - with f = rows // ranks, at most rows // (f + 1) ranks have more than f rows. If k ranks have no more,
      they have at most the k * f longest rows, and the others share what is left.
    """
    ordered = np.sort(tokens)[::-1]
    sums = np.concatenate([[0], np.cumsum(ordered)])
    rows, total = len(ordered), float(sums[-1])
    bounds = [total / ranks, float(ordered[0])]
    bounds += [float(sums[j * ranks + 1] - sums[j * (ranks - 1)]) for j in range(1, (rows - 1) // ranks + 1)]
    f = rows // ranks
    if rows % ranks:
        short = range(ranks - rows // (f + 1), ranks)
        bounds.append(min((total - float(sums[k * f])) / (ranks - k) for k in short))
    return max(bounds)


def pad_to_max(lengths: Lengths) -> float:
    return float(lengths.mean() / lengths.max())


def pad_micro_batches(lengths: Lengths, ranks: int, rng: np.random.Generator) -> float:
    """Each rank pads its rows to the longest of them. All wait for the rank with the most."""
    rows = rng.permutation(len(lengths))[: BATCHES * ranks * ROWS_A_RANK]
    of_ranks = lengths[rows].reshape(BATCHES, ranks, ROWS_A_RANK)
    padded = of_ranks.max(axis=2) * ROWS_A_RANK
    return float((of_ranks.sum(axis=(1, 2)) / (padded.max(axis=1) * ranks)).mean())


def random_ranks(lengths: Lengths, ranks: int, rng: np.random.Generator) -> float:
    """No padding, but rows dealt to ranks as they come."""
    rows = rng.permutation(len(lengths))[: BATCHES * ranks * ROWS_A_RANK]
    of_ranks = lengths[rows].reshape(BATCHES, ranks, ROWS_A_RANK).sum(axis=2)
    return float((of_ranks.mean(axis=1) / of_ranks.max(axis=1)).mean())


def best_fit_bins(lengths: Lengths, rng: np.random.Generator) -> float:
    """Fixed bins of 16,384 tokens, longest first, into the fullest bin."""
    left: list[int] = []
    for n in sorted(lengths[rng.permutation(len(lengths))[:20_000]].tolist(), reverse=True):
        fits = [(room, i) for i, room in enumerate(left[-200:], max(0, len(left) - 200)) if room >= n]
        if fits:
            left[min(fits)[1]] -= n
        else:
            left.append(BIN - n)
    return 1 - sum(left) / (BIN * len(left))


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    rng = np.random.default_rng(0)
    print("| useful tokens, 32 ranks of 8 rows | " + " | ".join(map(str, TARGETS)) + " |\n|---|---|---|---|")
    lengths = {target: bucket_lengths(target, 1_000_000, rng) for target in TARGETS}
    ways: dict[str, Callable[[Lengths], float]] = {
        "pad to the longest of all": lambda one: pad_to_max(one),
        "pad each rank's micro-batch": lambda one: pad_micro_batches(one, 32, rng),
        f"fixed bins of {BIN:,}, best fit": lambda one: best_fit_bins(one, rng),
        "no padding, rows to ranks as they come": lambda one: random_ranks(one, 32, rng),
        "Rasterloom, the same number of tokens": lambda one: (
            planned(one, 32, ROWS_A_RANK * one.mean()).useful
        ),
        f"Rasterloom, {RANK_TOKENS:,} tokens a rank": lambda one: planned(one, 32, RANK_TOKENS).useful,
    }
    for name, way in ways.items():
        print(f"| {name} | " + " | ".join(f"{way(one):.3f}" for one in lengths.values()) + " |")

    print(
        "\n| ranks | target | rows a rank | useful tokens | the most possible | cost, mean / max "
        "| balance, ms a batch | rows_multiple: ranks | rows a rank |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for ranks in (8, 32, 128, 1024):
        for target, one in lengths.items():
            for tokens in (RANK_TOKENS, ROWS_A_RANK * one.mean()):
                plain = planned(one, ranks, tokens)
                # Whole rows a rank: half a row more, so that as many batches round up as down.
                whole = planned(one, ranks, tokens + one.mean() / 2, rows_multiple=ranks)
                figures = (
                    f"{tokens / one.mean():.2f} | {plain.useful:.4f} | {plain.bound:.4f} | {plain.costs:.4f} "
                    f"| {1000 * plain.seconds:.1f} | {whole.useful:.4f} | {whole.rows:.2f}"
                )
                print(f"| {ranks:,} | {target} | {figures} |")

    many = np.tile(lengths[512], max(1, rows // 1_000_000))
    groups = np.arange(len(many)) // 959
    began = time.process_time()
    batches = plan_batches(many, seed=0, epoch=0, batch_tokens=1 << 20, groups=groups)
    epoch = time.process_time() - began
    began = time.process_time()
    halves = np.array_split(np.arange(len(many)), 2)
    plan = stage_plan(
        many,
        StageLength(epochs=1),
        seed=0,
        batch=BatchSize(1 << 20),
        mixture=Mixture(halves, [3, 1]),
        groups=groups,
    )
    steps = plan.steps
    mixed = time.process_time() - began
    print(f"\n{len(many):,} rows: an epoch ({len(batches):,} batches) planned in {epoch:.1f} CPU-s,")
    print(f"one of a mixture of two parts ({steps:,} batches) in {mixed:.1f} CPU-s.")


if __name__ == "__main__":
    main()
