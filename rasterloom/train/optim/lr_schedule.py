"""The learning rate of each step."""

import math

from rasterloom.recipe.train import Stage


def warmup_steps(steps: int, stage: Stage) -> int:
    """Return in how many of a stage's steps the rate rises."""
    if stage.warmup_steps is not None:
        return stage.warmup_steps
    return _share(stage.warmup_share, steps)


def decay_start(steps: int, stage: Stage) -> int:
    """Return the number of steps before the rate falls.

    The warm-up, and with ``wsd`` the steps at ``lr`` after it.
    """
    warmup = warmup_steps(steps, stage)
    if stage.schedule != "wsd":
        return warmup
    decay = _share(stage.decay_share, steps) if stage.decay_steps is None else stage.decay_steps
    return max(warmup, steps - decay)


def learning_rate(step: int, steps: int, stage: Stage) -> float:
    """Return the rate of step number ``step`` (from 0) of ``steps``.

    It rises linearly over the warm-up, then stays at ``lr``, or falls to ``min_lr``, which the last step
    has: in a line, by a half cosine, or (``wsd``; Hägele et al. 2024, arXiv 2405.18392) after some steps at
    ``lr`` as 1 minus the square root of the share of the decay that is done.
    """
    warmup, start = warmup_steps(steps, stage), decay_start(steps, stage)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    schedule = stage.schedule or ("constant" if stage.min_lr is None else "cosine")
    if schedule == "constant" or step < start:
        return stage.lr
    done = min(1.0, (step + 1 - start) / max(1, steps - start))
    if schedule == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    elif schedule == "linear" or stage.decay == "linear":
        left = 1 - done
    else:
        left = 1 - math.sqrt(done)
    least = stage.min_lr or 0.0
    return least + (stage.lr - least) * left


def _share(share: float, steps: int) -> int:
    return math.ceil(share * steps - 1e-9)
