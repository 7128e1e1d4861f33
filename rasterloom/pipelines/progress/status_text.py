"""State of a step as text, for a terminal or a log."""

from rasterloom.pipelines.progress.run_state import StepState
from rasterloom.recipe.price import Price
from rasterloom.utils.formatting import clock, counted, usd

WORST = 3  # classes of failure that are named


def progress_of(step: StepState) -> str:
    """``37 of 120 shards``; empty where nothing is counted."""
    if not step.total and not step.done:
        return ""
    of = "" if step.total is None else f" of {step.total:,}"
    return f"{step.done:,}{of} {step.unit}".rstrip()


def ending(step: StepState, now: float) -> str:
    """``4:10 left``; empty while unknown."""
    left = step.eta_s(now)
    return "" if left is None else f"{clock(left)} left"


def details(step: StepState, price: Price, now: float) -> list[str]:
    """Return the details of a running step, most important first."""
    found = [step.note] if step.note else []
    if loss := step.figures.get("loss"):
        found.append(f"loss {loss:.3f}")
    if rate := step.figures.get("tokens_per_s"):
        found.append(f"{rate:,.0f} tokens/s")
    if mfu := step.figures.get("mfu"):
        found.append(f"MFU {mfu:.1%}")
    if step.rows:
        found.append(f"{step.rows:,} rows")
    if rate := step.rows_per_s(now):
        found.append(f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s")
    if (share := step.ok_share()) is not None:
        found.append(f"{int(share * 1000) / 10}% {'kept' if 'kept' in step.outcomes else 'ok'}")
        found += [counted(name, rows) for name, rows in list(step.failures().items())[:WORST]]
    if step.of_shards:
        found.append(f"{step.clock.shards.busy} of {step.clock.shards.room} workers busy")
    elif step.workers > 1:
        found.append(f"{step.workers} workers")
    if step.lost:
        found.append(f"{step.lost} lost and done again")
    if price.cpu or price.gpu:
        found.append(usd(step.usd(price, now)))
    return found
