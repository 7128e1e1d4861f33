"""The learning rate of each step."""

import math

from rasterloom.recipe.train import Stage


def warmup_steps(steps: int, stage: Stage) -> int:
    """Return in how many of a stage's steps the rate rises."""
    if stage.warmup_steps is not None:
        return stage.warmup_steps
    return math.ceil(stage.warmup_share * steps - 1e-9)


def learning_rate(step: int, steps: int, stage: Stage) -> float:
    """Return the rate of step number ``step`` (from 0) of ``steps``.

    It rises linearly over the warm-up, then stays at ``lr``, or falls to ``min_lr`` in a line or by a half
    cosine, as the stage's ``schedule`` says.
    """
    warmup = warmup_steps(steps, stage)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    schedule = stage.schedule or ("constant" if stage.min_lr is None else "cosine")
    if schedule == "constant":
        return stage.lr
    progress = min(1.0, (step + 1 - warmup) / max(1, steps - warmup))
    left = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    least = stage.min_lr or 0.0
    return least + (stage.lr - least) * left
