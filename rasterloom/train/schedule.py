"""The learning rate of each step."""

import math

from rasterloom.recipe import Stage


def learning_rate(step: int, steps: int, stage: Stage) -> float:
    """Return the rate of step number ``step`` (from 0) of ``steps``.

    It rises linearly over ``warmup_steps``, then stays at ``lr``, or falls to ``min_lr`` by a half cosine.
    """
    if step < stage.warmup_steps:
        return stage.lr * (step + 1) / stage.warmup_steps
    if stage.min_lr is None:
        return stage.lr
    progress = (step + 1 - stage.warmup_steps) / max(1, steps - stage.warmup_steps)
    return stage.min_lr + (stage.lr - stage.min_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
