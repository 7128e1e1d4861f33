"""Global batches of rows, and their assignment to ranks.

The plan is a pure function of the rows' lengths, the seed, the stage and the epoch, and knows nothing of
ranks: the global batches are the same at any world size, so the position in a stage is one integer, and a
run can go on with other hardware. `balance` then deals one global batch out to the ranks.
"""

import heapq
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.utils.random_streams import stream_generator

Rows = NDArray[np.int64]

LINEAR_COST = 12 * 4096
"""c in the cost c*L + L*L of a sequence of L tokens: matrix products grow with 12 * width * L, causal
attention with L * L. The width is that of a 7B model; balance hardly depends on it below 4k tokens."""

WINDOW_GROUPS = 128
"""Row groups that an order goes through at once (`shuffled`): half a gigabyte, as they are written here."""

EVEN_ENOUGH = 0.002  # of the mean load: `balance` looks no further


def plan_batches(
    lengths: ArrayLike,
    *,
    seed: int,
    epoch: int,
    stage: int = 0,
    batch_tokens: int,
    rows_multiple: int = 1,
    groups: ArrayLike | None = None,
) -> list[Rows]:
    """Cut the shuffled rows of one epoch into global batches.

    Rows are taken in an order that depends on ``seed``, ``stage`` and ``epoch`` only (and on ``groups``,
    see `shuffled`); a batch takes rows as long as their lengths sum to at most ``batch_tokens``. So the last
    batch of an epoch may be smaller; it is trained on like the others. Every row comes once, except that
    with ``rows_multiple`` m > 1, and a number of rows that m does not divide, the (fewer than m) rows left
    over rest for this epoch; the next epoch's shuffle leaves out others.

    Args:
        lengths: tokens of each row, [n] integers.
        seed: of the run.
        epoch: number of the pass over the rows.
        stage: number of the stage.
        batch_tokens: the most tokens in a global batch.
        rows_multiple: batches have a multiple of so many rows, and at least so many, even where these
            together exceed ``batch_tokens``.
        groups: for each row, the number of the row group that it is read with, [n].

    Returns:
        Row numbers of each batch, int64.

    Raises:
        ValueError: a row alone is longer than ``batch_tokens``.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    rng = stream_generator("order", seed=seed, stage=stage, part=0, pass_=epoch)
    order = shuffled(len(lengths), rng, groups)
    return cut(order, lengths, batch_tokens, rows_multiple)


def shuffled(
    rows: int, rng: np.random.Generator, groups: ArrayLike | None, window: int = WINDOW_GROUPS
) -> Rows:
    """Return the numbers of rows in a random, readable order.

    A row is read with its row group, so an order without any order would read each group for nearly every
    one of its rows. Where there are more groups than ``window``, they are shuffled, and then the rows within
    each ``window`` of them: a reader that keeps so many groups reads each one once. A group's rows are a
    random part of their bucket already (pipelines/corpus/token_work.py).
    """
    order = rng.permutation(rows)
    if groups is None or not rows:
        return order
    groups = np.asarray(groups)
    first, last = int(groups.min()), int(groups.max())
    if last - first < window:
        return order
    windows = (rng.permutation(last - first + 1) // window).astype(np.int32)
    return order[np.argsort(windows[groups[order] - first], kind="stable")]


def cut(order: Rows, lengths: NDArray[np.int64], batch_tokens: int, rows_multiple: int = 1) -> list[Rows]:
    """Cut rows, in the order given, into batches; see `plan_batches`."""
    if len(order) and (longest := int(lengths[order].max())) > batch_tokens:
        raise ValueError(
            f"batch_tokens {batch_tokens} is smaller than the longest sequence ({longest} tokens)"
        )
    if rows_multiple < 1:
        raise ValueError(f"rows_multiple must be at least 1, not {rows_multiple}")
    units = len(order) // rows_multiple  # what is dealt out whole: rows_multiple rows each
    order = order[: units * rows_multiple]
    ends = np.cumsum(lengths[order].reshape(units, rows_multiple).sum(axis=1))
    starts = np.concatenate([[0], ends[:-1]]) if units else ends
    # following[i]: the unit after a batch that starts at unit i. One look-up for all i, then hop.
    following = np.searchsorted(ends, starts + batch_tokens, side="right")
    hops = np.maximum(following, np.arange(1, units + 1)).tolist()
    batches, unit = [], 0
    while unit < units:
        batches.append(order[unit * rows_multiple : hops[unit] * rows_multiple])
        unit = hops[unit]
    return batches


def balance(batch_rows: ArrayLike, lengths: ArrayLike, world_size: int) -> list[Rows]:
    """Assign a global batch's rows to ranks of about equal cost.

    The longest row goes first, each to the rank with the least cost so far; then rows are exchanged between
    the most and the least loaded ranks. A sequence of L tokens costs ``LINEAR_COST * L + L * L``.

    Args:
        batch_rows: row numbers of the batch.
        lengths: tokens of each row of the stage, [n].
        world_size: number of ranks.

    Returns:
        Row numbers a rank, int64, longest first. Empty for some ranks where rows are fewer than ranks.
    """
    rows = np.asarray(batch_rows, dtype=np.int64)
    tokens = np.asarray(lengths)[rows].astype(np.int64)
    order = np.lexsort((rows, -tokens))
    rows, tokens = rows[order], tokens[order]
    cost = LINEAR_COST * tokens + tokens * tokens
    rank_of = _longest_first(cost, world_size)
    if world_size > 1 and len(rows) > world_size:
        rank_of = _exchanged(cost, rank_of, world_size)
    return [rows[rank_of == rank] for rank in range(world_size)]


def _longest_first(cost: NDArray[np.int64], world_size: int) -> NDArray[np.int64]:
    """The rank of each row, where ``cost`` falls from row to row."""
    heap = [(0, rank) for rank in range(world_size)]
    rank_of = np.empty(len(cost), dtype=np.int64)
    for i, of_row in enumerate(cost.tolist()):
        load, rank = heap[0]
        rank_of[i] = rank
        heapq.heapreplace(heap, (load + of_row, rank))
    return rank_of


def _exchanged(
    cost: NDArray[np.int64], rank_of: NDArray[np.int64], world_size: int, rounds: int = 50
) -> NDArray[np.int64]:
    """Even the ranks' loads out: in each round the most loaded rank and the least loaded one, the second and
    the second last, and so on, exchange the two rows that bring the pair closest together.

    A rank's rows stand in slots, and an empty slot counts as a row of no cost: exchanged for a row, the row
    moves. No exchange makes the larger load of its pair larger.
    """
    by_rank = np.argsort(rank_of, kind="stable")
    sizes = np.bincount(rank_of, minlength=world_size)
    slots = np.full((world_size, int(sizes.max()) + 1), -1)
    slots[np.arange(slots.shape[1]) < sizes[:, None]] = by_rank
    costs = np.append(cost, 0)  # number -1: an empty slot
    pairs = np.arange(world_size // 2)
    for _ in range(rounds):
        loads = costs[slots].sum(axis=1)
        if loads.max() <= (1 + EVEN_ENOUGH) * loads.mean():
            break
        ranked = np.argsort(loads, kind="stable")
        light, heavy = ranked[: world_size // 2], ranked[::-1][: world_size // 2]
        half = (loads[heavy] - loads[light]) // 2
        # What the heavy rank is rid of, for each slot of it and of the light one; best is half the distance.
        given = costs[slots[heavy]][:, :, None] - costs[slots[light]][:, None, :]
        miss = np.abs(given - half[:, None, None]).reshape(len(pairs), -1)
        best = miss.argmin(axis=1)
        gains = miss[pairs, best] < half
        if not gains.any():
            break
        a, b = np.divmod(best[gains], slots.shape[1])
        heavy, light = heavy[gains], light[gains]
        slots[heavy, a], slots[light, b] = slots[light, b], slots[heavy, a]
        if (slots >= 0).all(axis=1).any():  # each rank keeps an empty slot to move a row to
            slots = np.pad(slots, ((0, 0), (0, 1)), constant_values=-1)
    rank_of = rank_of.copy()
    ranks, used = np.nonzero(slots >= 0)
    rank_of[slots[ranks, used]] = ranks
    return rank_of


def micro_batches(
    rows: ArrayLike, lengths: ArrayLike, max_tokens: int | None, *, at_least: int = 1
) -> list[Rows]:
    """Cut a rank's share of a batch into parts that fit.

    As few parts as hold at most ``max_tokens`` each, dealt out like ranks (`balance`): even parts take the
    least memory. Gradients of the parts add up to those of the share.

    Args:
        rows: row numbers of the share.
        lengths: tokens of each row of the stage, [n].
        max_tokens: the most tokens of a part; None: any number.
        at_least: parts to make at least; some are empty where rows are fewer.

    Returns:
        Row numbers of each part, int64, longest first.

    Raises:
        ValueError: a row alone is longer than ``max_tokens``.
    """
    rows = np.asarray(rows, dtype=np.int64)
    tokens = np.asarray(lengths)[rows]
    if max_tokens is None:
        return balance(rows, lengths, at_least)
    if len(rows) and (longest := int(tokens.max())) > max_tokens:
        raise ValueError(
            f"train.micro_batch_tokens {max_tokens} is smaller than the longest sequence ({longest} tokens)"
        )
    number = max(at_least, math.ceil(int(tokens.sum()) / max_tokens))
    while True:
        parts = balance(rows, lengths, number)
        if all(int(np.asarray(lengths)[part].sum()) <= max_tokens for part in parts):
            return parts
        number += 1


def assign_to_ranks(
    batch_rows: ArrayLike, lengths: ArrayLike, world_size: int, max_tokens: int | None = None
) -> list[list[Rows]]:
    """Assign a global batch to ranks, in equally many micro-batches each.

    ZeRO's ranks gather and reduce together, so none may have a part more than the others; where one needs
    more, the others' shares are cut into as many.

    Returns:
        For each rank its micro-batches, row numbers, int64.
    """
    shares = balance(batch_rows, lengths, world_size)
    if max_tokens is None:
        return [[share] for share in shares]
    parts = [micro_batches(share, lengths, max_tokens) for share in shares]
    while len({len(of_rank) for of_rank in parts}) > 1:
        most = max(map(len, parts))
        parts = [micro_batches(share, lengths, max_tokens, at_least=most) for share in shares]
    return parts
