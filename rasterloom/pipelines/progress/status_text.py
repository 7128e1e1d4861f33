"""The state of a step in words, for a terminal or a log."""

from rasterloom.pipelines.progress.run_state import Watched
from rasterloom.recipe.price import Price
from rasterloom.utils.formatting import clock, usd

WORST = 3  # classes of failure that are named


def size(n_bytes: float) -> str:
    """``1.4 GB``: in thousands, as disks and S3 are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"


def progress_of(step: Watched) -> str:
    """``37 of 120 shards``; empty where nothing is counted."""
    if not step.total and not step.done:
        return ""
    of = "" if step.total is None else f" of {step.total:,}"
    return f"{step.done:,}{of} {step.unit}".rstrip()


def ending(step: Watched, now: float) -> str:
    """``4:10 left``; empty while that cannot be told."""
    left = step.eta_s(now)
    return "" if left is None else f"{clock(left)} left"


def details(step: Watched, price: Price, now: float) -> list[str]:
    """What else is known of a running step, the most telling first."""
    found = [step.note] if step.note else []
    if loss := step.training.get("loss"):
        found.append(f"loss {loss:.3f}")
    if pace := step.training.get("tokens_per_s"):
        found.append(f"{pace:,.0f} tokens/s")
    if mfu := step.training.get("mfu"):
        found.append(f"MFU {mfu:.1%}")
    if step.rows:
        found.append(f"{step.rows:,} rows")
    if pace := step.rows_per_s(now):
        found.append(f"{pace:,.0f} rows/s" if pace >= 10 else f"{pace:.2g} rows/s")
    if (share := step.ok_share()) is not None:
        found.append(f"{int(share * 1000) / 10}% {'kept' if 'kept' in step.counts else 'ok'}")
        found += [f"{name} {rows:,}" for name, rows in list(step.failures().items())[:WORST]]
    if step.unit == "shards":
        found.append(f"{step.flight.busy} of {step.flight.workers} workers busy")
    elif step.workers > 1:
        found.append(f"{step.workers} workers")
    if step.lost:
        found.append(f"{step.lost} lost and done again")
    if price.cpu or price.gpu:
        found.append(usd(step.usd(price, now)))
    return found
