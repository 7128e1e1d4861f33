"""Live view of a run on a terminal."""

import threading
import time

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rasterloom.pipelines.progress.rich_compat import ResizableLive
from rasterloom.pipelines.progress.run_state import RunState, State, StepState
from rasterloom.pipelines.progress.status_text import details, ending, progress_of
from rasterloom.pipelines.progress.summary import print_summary
from rasterloom.utils.formatting import clock, usd
from rasterloom.utils.redact import LINES, safe

FRAMES_PER_S = 4
BAR, NARROW = 24, 12  # columns of the bar; on terminals of less than ``WIDE``
WIDE = 90
SIGNS = {
    State.WAITING: ("·", ".", "dim"),
    State.RUNNING: ("▶", ">", "bold"),
    State.DONE: ("✓", "+", "green"),
    State.BEFORE: ("=", "=", "dim"),
    State.STOPPED: ("✗", "x", "red"),
}


class LiveView:
    """The display of a terminal."""

    def __init__(self, console: Console, run: RunState, lock: threading.RLock) -> None:
        self.console, self.run, self._lock = console, run, lock
        self._live: ResizableLive | None = None

    def open(self) -> None:
        self._live = ResizableLive(
            console=self.console,
            get_renderable=self._frame,
            refresh_per_second=FRAMES_PER_S,
            transient=True,  # what stays is the summary
        )
        self._live.start()

    def close(self) -> None:
        if self._live:
            self._live.stop()
        self._live = None

    def say(self, text: str) -> None:
        self.console.print(safe(text, LINES), highlight=False, markup=False)

    def changed(self, step: StepState, event: str) -> None:
        pass  # the next frame shows it

    def ended(self, planned: list[str]) -> None:
        print_summary(self.console, self.run, planned)

    def _frame(self) -> Group:
        with self._lock:
            return frame(self.run, self.console, time.monotonic())


def frame(run: RunState, console: Console, now: float) -> Group:
    """Render a run in the size of the console."""
    width, height = console.size
    lines: list[Text | Table] = [_line(_head(run, now), width, "bold")]
    names = max((len(name) for name in run.steps), default=0)
    running = run.running if run.running and run.running.state is State.RUNNING else None
    below = _details(running, run, width - 4, now) if running else []
    for step in _shown(list(run.steps.values()), height - len(below) - 3):
        if isinstance(step, str):
            lines.append(_line(f"  {step}", width, "dim"))
            continue
        lines.append(_step(step, names, width, console, now))
        if step is running:
            lines += [_line(f"    {text}", width) for text in below]
    return Group(*lines)


def _head(run: RunState, now: float) -> str:
    over = sum(step.state in (State.DONE, State.BEFORE) for step in run.steps.values())
    cost = f"  {usd(run.usd(now))}" if run.is_priced else ""
    return f"{run.corpus}  {over} of {len(run.steps)} steps  {clock(now - run.began)}{cost}".lstrip()


def _step(step: StepState, names: int, width: int, console: Console, now: float) -> Table:
    sign, plain, style = SIGNS[step.state]
    line = Table.grid(padding=(0, 1))
    start = _line(f"{plain if console.options.ascii_only else sign} {step.name:<{names}}", width, style)
    if step.state is not State.RUNNING:
        text = {State.WAITING: "", State.BEFORE: "done before"}.get(step.state, step.note or step.state.value)
        line.add_row(start, _line(text, width - names - 3, "dim"))
        return line
    bar = BAR if width >= WIDE else NARROW
    text = ", ".join(filter(None, (progress_of(step), ending(step, now), clock(step.clock.seconds(now)))))
    begun = ProgressBar(total=step.total, completed=step.done, width=bar, pulse=not step.total)
    line.add_row(start, begun, _line(text, width - names - bar - 4))
    return line


def _details(step: StepState, run: RunState, width: int, now: float) -> list[str]:
    """Return the details of a running step, in few lines."""
    lines = [""]
    for fact in details(step, run.price, now):
        joined = f"{lines[-1]}, {fact}" if lines[-1] else fact
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(fact)
    return [line for line in lines if line]


def _shown(steps: list[StepState], room: int) -> list[StepState | str]:
    """Return the steps, those that are over or wait folded."""
    if len(steps) <= room:
        return list(steps)
    over = [step for step in steps if step.state not in (State.RUNNING, State.WAITING)]
    others = [step for step in steps if step not in over]
    keep = max(1, room - 2)
    more = len(others) - keep
    found: list[StepState | str] = [f"{len(over)} steps are done"] if over else []
    return [*found, *others[:keep], *([f"{more} more steps wait"] if more > 0 else [])]


def _line(text: str, width: int, style: str = "") -> Text:
    line = Text(safe(text), style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(max(1, width), overflow="ellipsis")
    return line
