import math
from dataclasses import replace
from xml.etree import ElementTree

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


@pytest.mark.parametrize("losses", [[], [3.0], [2.0, 2.0, 2.0]])
def test_short_and_flat_curves_are_drawn(losses: list[float]) -> None:
    chart = charts.loss_curve(stage(losses))
    assert "nan" not in chart
    if losses:
        ElementTree.fromstring(chart)
    else:
        assert chart == ""


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values_and_keeps_the_ends(values: list[float]) -> None:
    series = [(float(i), v) for i, v in enumerate(values)]
    smooth = charts.smoothed(series)
    assert [x for x, _ in smooth] == [x for x, _ in series]
    assert all(min(values) * 0.999 <= y <= max(values) * 1.001 for _, y in smooth)
    assert math.isclose(smooth[0][1], values[0], rel_tol=1e-6)
    assert math.isclose(smooth[-1][1], values[-1], rel_tol=1e-6)


@given(st.floats(1e-4, 1e4), st.floats(1.01, 1e6))
def test_ticks_lie_within_and_are_few(low: float, ratio: float) -> None:
    found = charts.ticks(low, low * ratio)
    assert 2 <= len(found) <= 12
    assert found == sorted(found)
    assert all(low * 0.99 <= tick <= low * ratio * 1.01 for tick in found)
