"""Charts as inline SVG, coloured by the page's CSS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup, escape

from rasterloom.report.lineage_graph import Made, depths, nearest_parents
from rasterloom.report.queries import Histogram
from rasterloom.report.training_runs import Stage
from rasterloom.utils import formatting

Point = tuple[float, float]

POINTS = 400  # of a curve; more would not be seen
WIDE, TALL = 480.0, 270.0  # of a chart of losses
LEFT, RIGHT, TOP, BOTTOM = 44.0, 402.0, 12.0, 236.0  # where its curves lie


def svg(width: float, height: float, label: str, parts: Sequence[str], kind: str = "chart") -> Markup:
    """SVG image that scales with its column; ``label`` is for screen readers."""
    head = Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(
        kind, width, height, label
    )
    return head + Markup("\n").join(map(Markup, parts)) + Markup("</svg>")


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(points: Sequence[Point], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def histogram(data: Histogram) -> Markup:
    """Histogram: selected rows at the bottom of each bar, dropped ones on top."""
    width, height, base = 360.0, 170.0, 140.0
    most = max(k + d for k, d in zip(data.kept, data.dropped, strict=True)) or 1
    step = width / len(data.kept)
    edge = (data.high - data.low) / len(data.kept)
    parts = []
    for i, (kept, dropped) in enumerate(zip(data.kept, data.dropped, strict=True)):
        if not kept + dropped:
            continue
        low, high = formatting.figure(data.low + i * edge), formatting.figure(data.low + (i + 1) * edge)
        bars = ""
        tops = (("dropped", kept + dropped), ("kept", kept))
        for kind, rows in tops:
            tall = max(1.5, 128 * rows / most) if rows else 0
            bars += f'<rect class="{kind}" x="{i * step + 0.5:.1f}" y="{base - tall:.1f}"'
            bars += f' width="{step - 1:.1f}" height="{tall:.1f}"/>'
        title = f"{low} to {high}: {formatting.count(kept)} kept, {formatting.count(dropped)} not"
        parts.append(f"<g><title>{escape(title)}</title>{bars}</g>")
    parts.append(line([(0, base), (width, base)], "axis"))
    parts += [
        text(0, base + 20, formatting.figure(data.low)),
        text(width / 2, base + 20, formatting.figure((data.low + data.high) / 2), "middle"),
        text(width, base + 20, formatting.figure(data.high), "end"),
    ]
    rows, kept = sum(data.kept) + sum(data.dropped), sum(data.kept)
    label = f"{data.name}: {formatting.count(rows)} images between {formatting.figure(data.low)} and "
    return svg(
        width, height, label + f"{formatting.figure(data.high)}, {formatting.percent(kept, rows)} kept", parts
    )


@dataclass(frozen=True)
class LossAxes:
    """Axes of a loss chart: steps, and the loss on a logarithmic scale."""

    start: float
    end: float
    low: float  # logarithms of the least and the greatest loss
    high: float

    @classmethod
    def around(cls, series: Sequence[Sequence[Point]], values: Sequence[float]) -> "LossAxes":
        """Fit axes to curves and further values; not all may be empty."""
        steps = [x for points in series for x, _ in points] or [0.0, 1.0]
        losses = [*values, *(y for points in series for _, y in points)]
        return cls(min(steps), max(steps), math.log(min(losses)) - 0.03, math.log(max(losses)) + 0.03)

    def at(self, x: float, y: float) -> Point:
        across = (min(max(x, self.start), self.end) - self.start) / ((self.end - self.start) or 1)
        up = (math.log(y) - self.low) / (self.high - self.low)
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)

    def curve(self, series: Sequence[Point], kind: str) -> str:
        return line([self.at(x, y) for x, y in thinned(series)], kind)

    def frame(self) -> list[str]:
        """Lines and figures of the axes."""
        parts = []
        for tick in ticks(math.exp(self.low), math.exp(self.high)):
            y = self.at(self.start, tick)[1]
            parts += [line([(LEFT, y), (RIGHT, y)], "grid"), text(LEFT - 8, y + 4, f"{tick:g}", "end")]
        return [
            *parts,
            text(LEFT, BOTTOM + 22, f"step {formatting.count(self.start)}"),
            text(RIGHT, BOTTOM + 22, formatting.count(self.end), "end"),
        ]


def loss_curve(stage: Stage) -> Markup:
    """Loss by step on a logarithmic axis: as measured, smoothed, and the held-out loss of each bucket."""
    series = [(x, y) for x, y in stage.series("loss") if y > 0]
    overall = [stage.heldout_loss] if stage.heldout_loss and stage.heldout_loss > 0 else []
    smooth = smoothed(series)
    values = [*stage.heldout_buckets.values(), *overall]
    if not series and not values and not stage.heldout_curve:
        return Markup()
    axes = LossAxes.around([series, stage.heldout_curve], values)
    parts = [*axes.frame(), axes.curve(series, "raw"), axes.curve(smooth, "curve")]
    if len(series) == 1:  # which is no line
        x, y = axes.at(*series[0])
        parts.append(f'<circle class="kept" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    if len(stage.heldout_curve) > 2:  # measured on the way, not at the ends alone
        parts.append(axes.curve(stage.heldout_curve, "mark"))
    for bucket, loss in stage.heldout_buckets.items():
        x, y = RIGHT + 12, axes.at(axes.end, loss)[1]
        title = escape(f"held out, {bucket}: {formatting.figure(loss)}")
        parts.append(f'<circle class="mark" cx="{x}" cy="{y:.1f}" r="4"><title>{title}</title></circle>')
    label = f"Loss of stage {stage.name}"
    if smooth:
        label += f", from {formatting.figure(smooth[0][1])} to {formatting.figure(smooth[-1][1])}"
    if overall:
        y = axes.at(axes.end, overall[0])[1]
        parts += [
            line([(RIGHT, y), (RIGHT + 24, y)], "mark"),
            text(RIGHT + 28, y + 4, formatting.figure(overall[0]), kind="strong"),
        ]
        label += f", held out {formatting.figure(overall[0])}"
    return svg(WIDE, TALL, label, parts)


def two_loss_curves(a: Stage | None, b: Stage | None) -> Markup:
    """Overlaid smoothed losses of a stage's two runs, held-out losses dashed.

    A dot ends each curve.
    """
    both = [(side, stage) for side, stage in (("a", a), ("b", b)) if stage]
    smooth = {side: smoothed([(x, y) for x, y in s.series("loss") if y > 0]) for side, s in both}
    held = {side: s.heldout_curve for side, s in both}
    last = {side: s.heldout_loss for side, s in both if s.heldout_loss and s.heldout_loss > 0}
    if not any((*smooth.values(), *held.values(), last)):
        return Markup()
    axes = LossAxes.around([*smooth.values(), *held.values()], [*last.values()])
    parts = axes.frame()
    for side, _ in both:
        parts += [axes.curve(smooth[side], f"side {side}"), axes.curve(held[side], f"side {side} held")]
        for x, y in [axes.at(*curve[-1]) for curve in (smooth[side], held[side]) if curve]:
            parts.append(f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    labels, above = [], -math.inf
    for side, loss in sorted(last.items(), key=lambda item: -item[1]):  # from the top, none over another
        y = max(axes.at(axes.end, loss)[1], above + 17)
        above = y
        parts.append(
            text(RIGHT + 8, y + 4, f"{side.upper()} {formatting.figure(loss)}", kind=f"strong {side}")
        )
        labels.append(f"{side.upper()} {formatting.figure(loss)}")
    return svg(
        WIDE, TALL, "Losses of A and B over each other; held out at the end: " + ", ".join(labels), parts
    )


def smoothed(series: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Smooth a curve by a line through the logarithms around each point.

    They are as many as ``share`` of the curve; in the middle this is their geometric mean. Towards the ends
    they are as many, and reach inwards, so that a curve does not end at its last point, whatever that is.
    """
    logs = [math.log(y) for _, y in series]
    sums = [0.0, *accumulate(logs)]
    moments = [0.0, *accumulate(i * y for i, y in enumerate(logs))]
    reach = min(round(share * len(series) / 2), (len(series) - 1) // 2)
    windows = [logs[: 2 * reach + 1], logs[-2 * reach - 1 :]] if series else []
    ends = [(min(window), max(window)) for window in windows]
    found = []
    for i, (x, _) in enumerate(series):
        start = min(max(0, i - reach), len(series) - 2 * reach - 1)
        end = start + 2 * reach + 1
        center, mean = start + reach, (sums[end] - sums[start]) / (end - start)
        spread = reach * (reach + 1) * (2 * reach + 1) / 3  # of the numbers of the points
        slope = (moments[end] - moments[start] - center * (end - start) * mean) / spread if reach else 0.0
        fitted = mean + slope * (i - center)
        if i != center:  # a line may lead beyond what it was laid through
            low, high = ends[start > 0]
            fitted = min(max(fitted, low), high)
        found.append((x, math.exp(fitted)))
    return found


def thinned(series: Sequence[Point]) -> list[Point]:
    """Thin out points evenly to at most ``POINTS``, with the last one."""
    step = max(1, math.ceil(len(series) / POINTS))
    return [*series[:-1:step], *series[-1:]]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two positive numbers, for a logarithmic axis."""
    for digits in ((1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]
        if len(found) <= most:
            break
    if len(found) > 1:
        return found
    middle = (low * high) ** 0.5
    return [float(f"{v:.3g}") for v in (low, middle, high)]


def lineage_graph(steps: list[Made]) -> Markup:
    """Workflow as a graph: a box for each step, a line to each step that reads it.

    A line that follows from the others, as from pairs to scores by way of images, is left out.
    """
    depth = depths(steps)
    rows: dict[int, list[str]] = {}
    for name, d in depth.items():
        rows.setdefault(d, []).append(name)
    width, gap, tall = 340.0, 58.0, 32.0
    places = {
        name: ((i + 1) * width / (len(names) + 1), d * gap + tall / 2 + 1)
        for d, names in rows.items()
        for i, name in enumerate(names)
    }
    parts = []
    for name, parents in nearest_parents(steps).items():
        x, y = places[name]
        for parent in parents:
            px, py = places[parent]
            aside = 90 * min(2, depth[name] - depth[parent] - 1)
            start, bend, end = py + tall / 2, (y - py) / 2, y - tall / 2
            curve = f"M{px:.0f},{start:.0f} C{px + aside:.0f},{py + bend:.0f} {x + aside:.0f},{y - bend:.0f}"
            parts.append(f'<path class="edge" d="{curve} {x:.0f},{end:.0f}"/>')
    for name, (x, y) in places.items():
        box = min(112.0, width / len(rows[depth[name]]) - 8)
        corner = f'x="{x - box / 2:.1f}" y="{y - tall / 2:.1f}"'
        parts.append(f'<rect class="node" {corner} width="{box:.1f}" height="{tall}" rx="8"/>')
        parts.append(text(x, y + 4.5, name, "middle"))
    label = "; ".join(f"{m.record.step} from {', '.join(m.parents) or 'the recipe'}" for m in steps)
    return svg(width, max(rows, default=0) * gap + tall + 2, label, parts, kind="chart graph")
