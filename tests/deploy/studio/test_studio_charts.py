"""Charts: every point lies within the frame, ticks are round and few, a thinned line keeps its extremes."""

import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.studio import charts

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)
LEFT, RIGHT = charts.LEFT - 1, charts.WIDTH - charts.RIGHT + 1
TOP, BOTTOM = charts.TOP - 1, charts.HEIGHT - charts.BOTTOM + 1


def marks(svg):
    """The corners of everything that is drawn of a line, two coordinates each."""
    found = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", "".join(re.findall(r'class="s s0" d="([^"]*)"', svg)))
    found += re.findall(r'<circle class="d s0" cx="(-?[\d.]+)" cy="(-?[\d.]+)"', svg)
    for bar in re.findall(r'<rect class="d s0" x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', svg):
        x, y, width, height = map(float, bar)
        found += [(x, y), (x + width, y + height)]
    return [(float(x), float(y)) for x, y in found]


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, st.none() | numbers | st.just(float("nan"))), max_size=30),
    st.sampled_from(["line", "scatter", "bar"]),
)
def test_every_point_lies_within_the_frame(points, kind):
    svg = str(charts.chart([charts.Line("a", [x for x, _ in points], [y for _, y in points])], kind=kind))
    good = [y for _, y in points if y is not None and math.isfinite(y)]
    assert len(marks(svg)) == len(good) * {"line": 2, "scatter": 1, "bar": 2}[kind]
    for x, y in marks(svg):
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM
    assert ("nothing to draw" in svg) == (not good)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=8),
    st.sampled_from(["line", "scatter", "bar"]),
)
def test_any_numbers_make_a_chart(points, kind):
    svg = str(charts.chart([charts.Line("a", [x for x, _ in points], [y for _, y in points])], kind=kind))
    assert "nan" not in svg.rsplit("</g>", maxsplit=1)[-1]
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in marks(svg))


def test_bars_of_values_far_apart_or_below_zero_stay_within_the_frame():
    for line in (charts.Line("a", [0, 100], [1, 2]), charts.Line("a", [1, 2, 3], [-5, -3, -4])):
        corners = marks(str(charts.chart([line], kind="bar")))
        assert len(corners) == 2 * len(line.x)
        assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in corners)


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
