"""Loss guard: skips steps whose loss spikes or is not finite.

The judgement is a pure function of losses and norms that are the same on every rank, and of what was seen
before, which is kept in checkpoints: so all ranks judge alike, and a resumed run as one that never stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from rasterloom.errors import TrainingDiverged
from rasterloom.recipe.train import Guard

ADVICE = "lower the stage's lr or raise its warmup_steps"
LAST_STEPS = 3
"""A stage of whose last so many steps none was taken has no result."""


@dataclass(frozen=True)
class Seen:
    """State of the guard between steps."""

    losses: tuple[float, ...] = ()
    """Of the last steps that were taken, at most ``window``, oldest first."""
    objections: int = 0
    """How often it has stepped in."""


def objection(guard: Guard, seen: Seen, loss: float, grad_norm: float) -> str | None:
    """Say what speaks against taking a step, or None.

    Args:
        loss: of the global batch.
        grad_norm: norm of its gradients before clipping.
    """
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(grad_norm):
        return "the gradients are not finite"
    if guard.factor is None or len(seen.losses) < guard.window:
        return None
    usual = median(seen.losses)
    if loss <= guard.factor * usual:
        return None
    return f"the loss {loss:.4g} is more than {guard.factor:g} times the usual {usual:.4g}"


def after_step(guard: Guard, seen: Seen, loss: float) -> Seen:
    """Remember a step that was taken."""
    if guard.factor is None:
        return seen
    return replace(seen, losses=(*seen.losses, loss)[-guard.window :])


def after_objection(guard: Guard, seen: Seen, reason: str, step: int) -> Seen:
    """Count an objection.

    Raises:
        TrainingDiverged: the recipe says to stop, or there have been too many.
    """
    if guard.on == "stop":
        raise TrainingDiverged(f"{reason} at step {step}: {ADVICE}, or let train.guard skip such steps")
    if seen.objections >= guard.limit:
        raise TrainingDiverged(f"{reason} at step {step}, after {guard.limit} such steps: {ADVICE}")
    return replace(seen, objections=seen.objections + 1)


def check_end(steps: int, *, finite: bool, refused: int, heldout: Mapping[str, Any]) -> None:
    """Check that a stage of so many steps ends with a result.

    Args:
        finite: all weights are.
        refused: how many of the last steps were, one after the other.
        heldout: loss and tokens of the held-out rows at the end; empty where there are none.

    Raises:
        TrainingDiverged: it is none.
    """
    if not finite:
        raise no_result("the weights are not finite", steps)
    if steps and refused >= min(LAST_STEPS, steps):
        raise no_result(f"none of the last {refused} steps was taken", steps)
    if heldout.get("tokens") and heldout.get("loss") is None:
        raise no_result("the held-out loss is not finite", steps)


def no_result(reason: str, step: int) -> TrainingDiverged:
    """Build the error of weights that are no result."""
    return TrainingDiverged(f"{reason} at step {step}: {ADVICE}; the last checkpoints before stay")
