"""Charts as SVG, drawn here so that a page without scripts shows them; static/studio.js adds reading by the mouse.

Colours are classes (the content policy allows no styles in the markup), so that light and dark are the stylesheet's.
A line of more points than can be told apart is drawn as the mean, minimum and maximum of equal parts.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

import markupsafe
import msgspec

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
POINTS = 240
LABELS, LABEL_CHARS = 10, 14
HUGE = 1e300
"""What is larger is not drawn, like what is no number: differences of such values are not finite."""


class Line(msgspec.Struct, frozen=True):
    """One series; None in y is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    """With `high`: a band around the line."""
    high: Sequence[float | None] = ()


def chart(
    lines: Sequence[Line], *, kind: str = "line", x_name: str = "", width: int = WIDTH, labels: Sequence[str] = ()
) -> markupsafe.Markup:
    """The lines over one another.

    Args:
        lines: the series; their place gives their colour.
        kind: 'line', 'scatter' or 'bar' (bars at x).
        x_name: what stands under the axis.
        width: in pixels of the drawing's own.
        labels: what stands under x = 0, 1, 2, ..., where these are no numbers.
    """
    thinned = [_thin(line) for line in lines] if kind == "line" else list(lines)
    points = [(x, y) for line in thinned for x, y in zip(line.x, line.y, strict=True) if _finite(y) and _finite(x)]
    if not points:
        return markupsafe.Markup('<p class="none">nothing to draw yet</p>')
    values = [y for _, y in points] + [v for line in thinned for v in (*line.low, *line.high) if _finite(v)]
    gap = _gap([x for x, _ in points])
    room = gap / 2 if kind == "bar" else 0.0
    x_axis = Axis(min(x for x, _ in points) - room, max(x for x, _ in points) + room, LEFT, width - RIGHT)
    ends = [0.0, *values] if kind == "bar" else values  # a bar begins at 0
    y_axis = Axis(min(ends), max(ends), HEIGHT - BOTTOM, TOP, nice=True)
    parts = _grid(x_axis, y_axis, width, x_name, labels)
    for at, line in enumerate(thinned):
        if kind == "bar":
            parts.append(_bars(line, x_axis, y_axis, at, gap))
        else:
            parts.append((_dots if kind == "scatter" else _path)(line, x_axis, y_axis, at))
    read = [{"name": line.name, "x": list(line.x), "y": list(line.y)} for line in thinned]
    box = f"{x_axis.low:.6g} {x_axis.high:.6g} {LEFT} {width - RIGHT}"
    attributes = markupsafe.escape(msgspec.json.encode(read).decode())
    said = markupsafe.escape("; ".join(_summary(line) for line in lines))
    return markupsafe.Markup(  # noqa: S704 - every text in it is escaped
        f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{said}" data-box="{box}" '
        f'data-y="{y_axis.low:.6g} {y_axis.high:.6g} {HEIGHT - BOTTOM} {TOP}" '
        f'data-lines="{attributes}">{"".join(parts)}</svg>'
    )


class Axis:
    """From values to places."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, nice: bool = False) -> None:
        if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
            far = max(abs(low), abs(high)) * 2  # a line that is level: from zero, and it in the middle
            far = far if far > 1e-100 else 1.0
            low, high = (0.0 if low >= 0 else -far), (0.0 if low < 0 and high <= 0 else far)
        self.step = _step(high - low, 4 if nice else 5)
        if nice:
            low, high = math.floor(low / self.step + 1e-9) * self.step, math.ceil(high / self.step - 1e-9) * self.step
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        return [at * self.step for at in range(first, math.floor(self.high / self.step + 1e-9) + 1)]


def _step(span: float, parts: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that makes about `parts` parts."""
    power = 10 ** math.floor(math.log10(span / parts))
    return next(float(power * factor) for factor in (1, 2, 5, 10) if span / (power * factor) <= parts)


def _grid(x_axis: Axis, y_axis: Axis, width: int, x_name: str, labels: Sequence[str]) -> list[str]:
    parts = ['<g class="grid">']
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{width - RIGHT}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" '
                     f'text-anchor="end">{_label(tick)}</text>')  # fmt: skip
    every = -(-len(labels) // LABELS) or 1
    ticks: dict[float, str] = dict(enumerate(labels)) if labels else {tick: _label(tick) for tick in x_axis.ticks()}
    for tick in list(ticks)[::every]:
        text = markupsafe.escape(ticks[tick][:LABEL_CHARS])
        parts.append(f'<text x="{x_axis.at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="4" y="{HEIGHT - BOTTOM + 16}">'
                 f"{markupsafe.escape(x_name)}</text></g>")  # fmt: skip
    return parts


def _label(value: float) -> str:
    return f"{value:.0e}" if value and not 1e-4 <= abs(value) < 1e6 else f"{value:.6g}"


def _path(line: Line, x_axis: Axis, y_axis: Axis, at: int) -> str:
    pieces, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if not (_finite(x) and _finite(y)):
            pen = "M"
            continue
        pieces.append(f"{pen}{x_axis.at(x):.1f} {y_axis.at(y):.1f}")
        pen = "L"
    dots = _dots(line, x_axis, y_axis, at) if len(line.x) <= 40 else ""
    return f'{_band(line, x_axis, y_axis, at)}<path class="s s{at % 8}" d="{"".join(pieces)}"/>{dots}'


def _band(line: Line, x_axis: Axis, y_axis: Axis, at: int) -> str:
    if not line.low or not line.high:
        return ""
    edge = list(zip(line.x, line.high, strict=True)) + list(zip(line.x, line.low, strict=True))[::-1]
    corners = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in edge if _finite(x) and _finite(y))
    return f'<polygon class="b s{at % 8}" points="{corners}"/>'


def _dots(line: Line, x_axis: Axis, y_axis: Axis, at: int) -> str:
    return "".join(
        f'<circle class="d s{at % 8}" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.5"/>'
        for x, y in zip(line.x, line.y, strict=True)
        if _finite(x) and _finite(y)
    )


def _gap(x: Sequence[float]) -> float:
    """The least distance between two places, which is how wide a bar may be."""
    return min((b - a for a, b in pairwise(sorted(x)) if b > a), default=1.0)


def _bars(line: Line, x_axis: Axis, y_axis: Axis, at: int, gap: float) -> str:
    width = max(1.0, 0.8 * (x_axis.at(gap) - x_axis.at(0)))
    zero = y_axis.at(0)
    parts = []
    for x, y in zip(line.x, line.y, strict=True):
        if _finite(x) and _finite(y):
            top = y_axis.at(y)
            left = x_axis.at(x) - width / 2
            parts.append(f'<rect class="d s{at % 8}" x="{left:.1f}" y="{min(top, zero):.1f}" width="{width:.1f}" '
                         f'height="{abs(zero - top):.1f}"/>')  # fmt: skip
    return "".join(parts)


def _thin(line: Line) -> Line:
    """The line with at most POINTS points: means of equal parts, between their extremes."""
    size = -(-len(line.x) // POINTS)
    if size <= 1 or line.low:
        return line
    x, y, low, high = [], [], [], []
    for at in range(0, len(line.x), size):
        part = [value for value in line.y[at : at + size] if _finite(value)]
        x.append(line.x[min(at + size // 2, len(line.x) - 1)])
        y.append(sum(part) / len(part) if part else None)
        low.append(min(part) if part else None)
        high.append(max(part) if part else None)
    return Line(line.name, x, y, low, high)


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and abs(value) < HUGE  # false for NaN


def _summary(line: Line) -> str:
    """A line in words, for who cannot see it."""
    kept = [value for value in line.y if _finite(value)]
    if not kept:
        return f"{line.name}: no values"
    ends = f"from {kept[0]:.3g} to {kept[-1]:.3g}, least {min(kept):.3g}, most {max(kept):.3g}"
    return f"{line.name}: {len(kept)} values {ends}"


def spark(values: Sequence[float]) -> markupsafe.Markup:
    """A rate over the last minutes as a small line from 0 to its most."""
    top = max(values, default=0.0) or 1.0
    width = max(len(values) - 1, 1)
    line = "L".join(f"{100 * at / width:.1f} {21 - 19 * value / top:.1f}" for at, value in enumerate(values))
    path = f'<path d="M{line}"/>' if values else ""
    return markupsafe.Markup(  # noqa: S704 - numbers only
        f'<svg class="spark" viewBox="0 0 100 22" preserveAspectRatio="none" aria-hidden="true">{path}</svg>'
    )


def profile(depths: Sequence[int]) -> markupsafe.Markup:
    """A walk's depth over its steps; the parts that go back up are drawn apart."""
    width, deep = max(len(depths) - 1, 1), max(depths, default=0) or 1
    places = [(1000 * at / width, 4 + 38 * depth / deep) for at, depth in enumerate(depths)]
    parts = [
        f'<path{" class=back" if depths[at + 1] <= depths[at] else ""} d="M{x:.0f} {y:.1f}L{u:.0f} {v:.1f}"/>'
        for at, ((x, y), (u, v)) in enumerate(pairwise(places))
    ]
    return markupsafe.Markup(  # noqa: S704 - numbers only
        '<svg class="profile" viewBox="-4 0 1008 46" preserveAspectRatio="none" role="img" '
        f'aria-label="depth of the walk over its {len(depths)} steps">{"".join(parts)}</svg>'
    )
