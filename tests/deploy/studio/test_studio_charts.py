"""Charts: every point lies within the frame, ticks are round and few, a thinned line keeps its extremes."""

import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.studio import charts

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, st.none() | numbers | st.just(float("nan"))), max_size=30),
    st.sampled_from(["line", "scatter", "bar"]),
)
def test_every_point_lies_within_the_frame(points, kind):
    svg = str(charts.chart([charts.Line("a", [x for x, _ in points], [y for _, y in points])], kind=kind))
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", "".join(re.findall(r'class="s s0" d="([^"]*)"', svg))):
        assert charts.LEFT - 1 <= float(x) <= charts.WIDTH - charts.RIGHT + 1
        assert charts.TOP - 1 <= float(y) <= charts.HEIGHT - charts.BOTTOM + 1
    if kind == "scatter":
        good = [y for _, y in points if y is not None and math.isfinite(y)]
        assert svg.count("<circle") == len(good)
    assert ("nothing to draw" in svg) == (not [y for _, y in points if y is not None and math.isfinite(y)])


@settings(deadline=None)
@given(numbers, numbers)
def test_ticks_are_few_and_within(a, b):
    for nice in (False, True):
        axis = charts.Axis(min(a, b), max(a, b), 0, 100, nice=nice)
        ticks = axis.ticks()
        assert 1 <= len(ticks) <= 12
        assert all(-1e-6 <= axis.at(tick) <= 100 + 1e-6 for tick in ticks)


@settings(deadline=None)
@given(st.lists(st.none() | numbers, min_size=1, max_size=12), st.integers(charts.POINTS + 1, 4 * charts.POINTS))
def test_a_thinned_line_keeps_its_extremes(part, length):
    values = (part * length)[:length]
    thin = charts._thin(charts.Line("a", list(range(len(values))), values))
    known = [value for value in values if value is not None]
    assert len(thin.x) <= charts.POINTS
    if known:
        assert min(value for value in thin.low if value is not None) == min(known)
        assert max(value for value in thin.high if value is not None) == max(known)


def test_names_are_escaped():
    svg = str(charts.chart([charts.Line("<b>&\"'", [1, 2], [1, 2])], x_name="<i>"))
    assert "<b>" not in svg
    assert "<i>" not in svg
