"""Table of what a run did, printed at its end."""

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rasterloom.pipelines.progress.run_state import RunState, State, StepState
from rasterloom.pipelines.progress.status_text import progress_of
from rasterloom.utils.formatting import clock, counted, size, usd
from rasterloom.utils.redact import safe

COLUMNS = ("step", "rows in", "rows out", "rows/s", "written", "time", "cost", "failed or not kept")
LESS = ("failed or not kept", "written", "rows/s", "rows in")  # is left out first where there is little room
CLASSES = 3


def print_summary(console: Console, run: RunState, planned: list[str]) -> None:
    """Print a line for each step that ran, and a total."""
    now = time.monotonic()
    ran = [run.steps[name] for name in planned if run.steps[name].clock.began]
    if not ran:
        return
    whole = {"step": "all", "time": clock(now - run.began), "cost": usd(run.usd(now))}
    rows = [*(_row(step, run, now) for step in ran), whole]
    columns = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    columns = [name for name in columns if name != "cost" or run.is_priced]
    anyhow = console.options.update(max_width=10_000)
    for name in (None, *LESS):
        table = _table([column for column in columns if column != name], rows)
        columns = [column for column in columns if column != name]
        if console.measure(table, options=anyhow).maximum <= console.width:
            break
    console.print(table, highlight=False)


def _table(columns: list[str], rows: list[dict[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("step", "failed or not kept") else "right")
    for row in rows:
        table.add_row(*(Text(safe(row.get(name, ""))) for name in columns))
    return table


def _row(step: StepState, run: RunState, now: float) -> dict[str, str]:
    failures, record = step.failures(), step.record
    rows = record.rows if record else 0
    given = step.outcomes.get("read", rows)  # of pairs, some are there twice
    rate = step.rows_per_s(now)
    at = f"stopped at {progress_of(step)}".removesuffix(" at ")
    return {
        "step": f"{step.name} ({at})" if step.state is State.STOPPED else step.name,
        "rows in": f"{given:,}" if rows else "",
        "rows out": f"{rows - sum(failures.values()):,}" if rows else "",
        "rows/s": f"{rate:,.0f}" if rate else "",
        "written": size(record.n_bytes) if record and record.n_bytes else "",
        "time": clock(step.clock.seconds(now)),
        "cost": usd(step.usd(run.price, now)),
        "failed or not kept": ", ".join(counted(name, n) for name, n in list(failures.items())[:CLASSES]),
    }
