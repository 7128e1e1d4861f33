from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.report import charts
from rasterloom.report.queries import Histogram
from rasterloom.report.training_runs import Stage


def test_a_histogram_stacks_kept_and_not_kept() -> None:
    chart = ElementTree.fromstring(charts.histogram(Histogram("<q> & r", 0, 4, (0, 6, 2, 0), (0, 2, 0, 4))))
    assert chart.get("aria-label") == "<q> & r: 14 images between 0 and 4, 57.1 % kept"
    titles = [title.text for title in chart.iter("title")]
    assert titles == ["1 to 2: 6 kept, 2 not", "2 to 3: 2 kept, 0 not", "3 to 4: 0 kept, 4 not"]
    heights = [float(rect.get("height", "")) for rect in chart.iter("rect")]
    assert heights == [128, 96, 32, 32, 64, 0]


def stage(losses: list[float], after: dict[str, float] | None = None) -> Stage:
    steps = tuple({"step": i + 1, "loss": v} for i, v in enumerate(losses))
    return Stage("<64>", steps, {}, {name: {"loss": v} for name, v in (after or {}).items()})


def test_a_loss_curve_falls_and_marks_what_was_held_out() -> None:
    losses = [7 * 0.995**i + 1 for i in range(1000)]
    chart = ElementTree.fromstring(charts.loss_curve(stage(losses, {"all": 1.2, "64x64": 1.1, "<b>": 1.3})))
    assert "held out 1.2" in chart.get("aria-label", "")
    (curve,) = (p for p in chart.iter("polyline") if p.get("class") == "curve")
    points = [tuple(map(float, point.split(","))) for point in curve.get("points", "").split()]
    assert len(points) <= charts.POINTS + 1
    assert points == sorted(points)  # to the right, and down
    assert [t.text for t in chart.iter("title")] == ["held out, 64x64: 1.1", "held out, <b>: 1.3"]


def test_the_held_out_loss_on_the_way_is_a_curve_of_its_own() -> None:
    measured = replace(stage([5, 4, 3, 2.5], {"all": 3.0}), heldout_curve=((0, 6.0), (2, 3.5), (4, 3.0)))
    chart = ElementTree.fromstring(charts.loss_curve(measured))
    curve = next(p for p in chart.iter("polyline") if p.get("class") == "mark")
    points = [tuple(map(float, point.split(","))) for point in curve.get("points", "").split()]
    assert len(points) == 3 and points == sorted(points)  # to the right, and down
    ends = replace(measured, heldout_curve=((0, 6.0), (4, 3.0)))  # two points are no curve
    chart = ElementTree.fromstring(charts.loss_curve(ends))
    assert sum(p.get("class") == "mark" for p in chart.iter("polyline")) == 1


def test_curves_end_where_they_end() -> None:
    """A shorter run ends halfway; a held-out loss after the last logged step is at its place."""
    short, long = (replace(stage([5.0] * steps), name=name) for name, steps in (("a", 50), ("b", 99)))
    long = replace(long, heldout_curve=((0, 6.0), (50, 4.0), (100, 3.0)))
    chart = ElementTree.fromstring(charts.two_loss_curves(short, long))
    drawn = [(p.get("class"), p.get("points", "").split()) for p in chart.iter("polyline")]
    ends = {kind: points[-1].split(",") for kind, points in drawn if points}
    width = charts.RIGHT - charts.LEFT
    shares = {kind: (float(x) - charts.LEFT) / width for kind, (x, _) in ends.items() if kind}
    assert shares["side a"] == pytest.approx(0.5, abs=0.001)
    assert shares["side b"] == pytest.approx(0.99, abs=0.001) and shares["side b held"] == 1
    dots = {(dot.get("cx"), dot.get("cy")) for dot in chart.iter("circle")}
    assert dots == {tuple(ends[kind]) for kind in ("side a", "side b", "side b held")}
    alone = ElementTree.fromstring(charts.loss_curve(long))
    points = {p.get("class"): p.get("points", "").split() for p in alone.iter("polyline")}
    ends_at = {kind: float(points[kind][-1].split(",")[0]) for kind in ("curve", "mark")}
    assert ends_at["curve"] < ends_at["mark"] == charts.RIGHT


@pytest.mark.parametrize("losses", [[], [3.0], [2.0, 2.0, 2.0]])
def test_short_and_flat_curves_are_drawn(losses: list[float]) -> None:
    chart = charts.loss_curve(stage(losses))
    assert "nan" not in chart
    if losses:
        dots = [e for e in ElementTree.fromstring(chart).iter("circle") if e.get("class") == "kept"]
        assert len(dots) == (len(losses) == 1), "one point is no line"
    else:
        assert chart == ""


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values(values: list[float]) -> None:
    series = [(float(i), v) for i, v in enumerate(values)]
    smooth = charts.smoothed(series)
    assert [x for x, _ in smooth] == [x for x, _ in series]
    assert all(min(values) * 0.999 <= y <= max(values) * 1.001 for _, y in smooth)
    if len(values) <= 25:  # a window of one point
        assert [y for _, y in smooth] == pytest.approx(values)


def test_a_smoothed_curve_has_no_hook_at_its_ends() -> None:
    """The first and the last loss are one draw each, and the curve goes on past them as it came."""
    series = [(float(i), 2.0) for i in range(500)]
    series[0], series[-1] = (0.0, 3.0), (499.0, 3.0)
    smooth = charts.smoothed(series)
    assert all(y < 2.0 * 1.5**0.25 for _, y in smooth)


def test_smoothing_leaves_a_steady_fall_as_it_is() -> None:
    series = [(float(i), 10.0 * 0.99**i) for i in range(300)]
    assert [y for _, y in charts.smoothed(series)] == pytest.approx([y for _, y in series])


def test_smoothing_is_a_least_squares_line_in_each_window() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=200))
    smooth = charts.smoothed([(float(i), float(v)) for i, v in enumerate(values)])
    for i in range(200):
        start = min(max(0, i - 4), 200 - 9)
        window = np.log(values[start : start + 9])
        line = np.polynomial.Polynomial.fit(np.arange(start, start + 9), window, 1)(i)
        assert smooth[i][1] == pytest.approx(np.exp(np.clip(line, window.min(), window.max())))


@given(st.floats(1e-4, 1e4), st.floats(1.01, 1e6))
def test_ticks_lie_within_and_are_few(low: float, ratio: float) -> None:
    found = charts.ticks(low, low * ratio)
    assert 2 <= len(found) <= 12
    assert found == sorted(found)
    assert all(low * 0.99 <= tick <= low * ratio * 1.01 for tick in found)
