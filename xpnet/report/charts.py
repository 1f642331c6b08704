"""The diagrams of a page as SVG elements, in the colours of the page, light or dark.

The elements have CSS classes, to which `templates/report.css` gives colours. matplotlib only
chooses the positions of the ticks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from matplotlib.ticker import LogLocator, MaxNLocator

from xpnet.figures.calibration import Calibration
from xpnet.figures.style import is_wide, percent
from xpnet.training.history import History

COLOURS = 8
"""The number of colours of curves; further curves repeat them, dashed."""

LARGEST_VALUE = 1e300
"""The margins of an axis with larger values would not be finite."""

_WIDTH, _HEIGHT = 340.0, 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 10.0, 10.0, 36.0
_MANY_POINTS = 40
_STAR = "M0-7 1.7-2.2 6.7-2.2 2.6.8 4.1 5.7 0 2.7-4.1 5.7-2.6.8-6.7-2.2-1.7-2.2z"


def element(tag: str, *content: Element | str, **attributes: object) -> Element:
    """`<tag attributes>content</tag>`: `class_` is `class`, `aria_label` is `aria-label`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    made = Element(tag, {names[name]: _text(value) for name, value in attributes.items()})
    for item in content:
        if not isinstance(item, str):
            made.append(item)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + item
        else:
            made.text = (made.text or "") + item
    return made


def _text(value: object) -> str:
    # A tenth of a pixel is precise enough, and integers stay integers.
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)


def drawable_points(history: History, x: Sequence[float], name: str) -> list[tuple[float, float]]:
    """The points `(x, value)` of a column of the history whose value can be drawn."""
    pairs = zip(x, history.column(name), strict=True)
    return [(place, v) for place, v in pairs if v is not None and abs(v) < LARGEST_VALUE]


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points `(x, y)` from left to right, and its style.

    `colour`: 0, 1, …; `best`: a point that is marked with a star.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    best: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """The CSS classes of the curve."""
        dashed = self.dashed or self.colour // COLOURS % 2
        return f"curve c{self.colour % COLOURS}" + (" dashed" if dashed else "")


@dataclass(frozen=True)
class _Axes:
    """A rectangle of the drawing, and the ranges of values of its axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool = False
    top: float = _TOP
    bottom: float = _HEIGHT - _BOTTOM

    def across(self, value: float) -> float:
        return _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        low, high = map(math.log, self.y) if self.logarithmic else self.y
        share = ((math.log(value) if self.logarithmic else value) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)

    def rows(self, ticks: Sequence[float], show: Callable[[float], str]) -> Iterator[Element]:
        """A grid line and a label at each of the `ticks` of the vertical axis."""
        right = _WIDTH - _RIGHT
        for tick in ticks:
            y = self.up(tick)
            yield element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid")
            yield element("text", show(tick), x=_LEFT - 6, y=y + 4, text_anchor="end")

    def columns(self, ticks: Sequence[float], show: Callable[[float], str]) -> Iterator[Element]:
        """A label at each of the `ticks` of the horizontal axis."""
        for tick in ticks:
            x = self.across(tick)
            yield element("text", show(tick), x=x, y=self.bottom + 16, text_anchor="middle")


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str,
    show: Callable[[float], str] = "{:.4g}".format,
    floor: float | None = None,
) -> Element:
    """Curves in one pair of axes, and a legend below them where they have names.

    `unit`: the label of the horizontal axis; `show`: formats a value; `floor`: the lower limit of
    the vertical axis. Without it, the axis begins near the lowest value, and is logarithmic if
    the values are not percentages and span more than a factor of 30.
    """
    lines = [line for line in lines if line.points]
    heading = element("h3", title)
    if not lines:
        return element("figure", heading, element("p", "no value yet", class_="note"))
    axes = _axes_of(lines, show, floor)
    drawing = _drawing(_description(title, lines, unit, show), _HEIGHT)
    ticks = _ticks(axes.y, axes.logarithmic)
    drawing.extend(axes.rows(ticks, _short(ticks, show)))
    places = MaxNLocator(nbins=6, integer=True, min_n_ticks=1).tick_values(*axes.x)
    drawing.extend(axes.columns(_within(places, axes.x), "{:,.10g}".format))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    drawing.append(element("text", unit, x=middle, y=_HEIGHT - 3, text_anchor="middle"))
    for line in lines:
        drawing.append(_curve(line, axes))
    for line in lines:
        if line.best:
            x, y = axes.across(line.best[0]), axes.up(line.best[1])
            place = f"translate({x:.1f} {y:.1f})"
            drawing.append(element("path", d=_STAR, transform=place, class_=f"star {line.kind}"))
    named = any(line.name for line in lines)
    return element("figure", heading, drawing, *([_legend(lines, unit, show)] if named else []))


def _axes_of(lines: Sequence[Line], show: Callable[[float], str], floor: float | None) -> _Axes:
    xs = [float(x) for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    left, right = min(xs), max(xs)
    if left == right:
        left, right = left - 1, right + 1
    low, high = min(ys), max(ys)
    if floor is None and show is not percent and is_wide(ys):
        return _Axes((left, right), (low / 1.2, high * 1.2), logarithmic=True)
    if floor is not None:
        low = min(floor, low)
    # A single value needs a margin too.
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return _Axes((left, right), (low if low == floor else low - margin, high + margin))


def _ticks(span: tuple[float, float], logarithmic: bool) -> list[float]:
    if not logarithmic:
        return _within(MaxNLocator(nbins=5).tick_values(*span), span)
    for steps in ((1.0, 2.0, 5.0), (1.0,)):
        ticks = _within(LogLocator(subs=steps, numticks=700).tick_values(*span), span)
        if len(ticks) <= 8:
            break
    return ticks[:: max(-(-len(ticks) // 8), 1)]


def _within(ticks: Sequence[float], span: tuple[float, float]) -> list[float]:
    return [float(tick) for tick in ticks if span[0] <= tick <= span[1]]


def _short(ticks: Sequence[float], show: Callable[[float], str]) -> Callable[[float], str]:
    """The format of the ticks of an axis: percentages with as few digits as all of them need."""
    if show is not percent:
        return "{:g}".format
    for digits in range(3):
        if all(abs(round(100 * tick, digits) - 100 * tick) < 1e-9 for tick in ticks):
            break
    return lambda tick: percent(tick, digits)


def _curve(line: Line, axes: _Axes) -> Element:
    places = [(axes.across(x), axes.up(y)) for x, y in line.points]
    group = element("g", class_=line.kind)
    if len(places) > 1:
        steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(places))
        group.append(element("path", d=f"M{steps}"))
    if len(places) <= _MANY_POINTS:
        group.extend(element("circle", cx=x, cy=y, r=2.5) for x, y in places)
    return group


def _thinned(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """With many points, only the first, last, highest and lowest in each half unit of width."""
    if len(places) <= 2 * _WIDTH:
        return places
    columns: dict[int, list[tuple[float, float]]] = {}
    for place in places:
        columns.setdefault(round(2 * place[0]), []).append(place)
    kept: list[tuple[float, float]] = []
    for column in columns.values():
        low, high = (pick(column, key=lambda place: place[1]) for pick in (min, max))
        # Each point once, in the original order.
        kept += dict.fromkeys(
            sorted((column[0], low, high, column[-1]), key=lambda place: column.index(place))
        )
    return kept


def _legend(lines: Sequence[Line], unit: str, show: Callable[[float], str]) -> Element:
    entries = element("ul", class_="legend")
    for line in lines:
        text = f" {line.name} {show(line.points[-1][1])}"
        if line.best:
            text += f", best ★ {show(line.best[1])} ({unit} {line.best[0]:,.10g})"
        sample = element("path", d="M0 6H26")
        key = element("svg", sample, viewBox="0 0 26 12", aria_hidden="true", class_=line.kind)
        entries.append(element("li", key, text))
    return element("figcaption", entries)


def _description(title: str, lines: Sequence[Line], unit: str, show: Callable[[float], str]) -> str:
    """The diagram in words, for screen readers."""
    parts = []
    for line in lines:
        (first, begin), (last, end) = line.points[0], line.points[-1]
        course = f"{show(begin)} at {unit} {first:.10g} to {show(end)} at {last:.10g}"
        parts.append(f"{line.name or 'it goes'} from {course}")
    return f"{title}: {'; '.join(parts)}"


def _drawing(description: str, height: float) -> Element:
    return element(
        "svg",
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        aria_label=description,
        class_="chart",
    )


def reliability_chart(found: Calibration) -> Element:
    """A reliability diagram: the accuracy of each bin of confidence, and its number of samples.

    A bar that ends below the diagonal belongs to predictions that are overconfident; the distance
    between accuracy and confidence is outlined.
    """
    bins, total = len(found.counts), int(found.counts.sum())
    description = (
        f"Reliability diagram of {total:,} test samples, expected calibration error "
        f"{percent(found.error)}; the table gives its numbers"
    )
    drawing = _drawing(description, 330.0)
    axes = _Axes((0, 1), (0, 1), bottom=200.0)
    fifths = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    drawing.extend(axes.rows(fifths, lambda tick: percent(tick, 0)))
    many = _Axes((0, 1), (0, max(float(found.counts.max()), 1.0)), top=252.0, bottom=294.0)
    for number, count in enumerate(found.counts.tolist()):
        if not count:
            continue
        left, right = (axes.across((number + end) / bins) for end in (0.08, 0.92))
        right_share, sure = float(found.accuracy[number]), float(found.confidence[number])
        drawing.append(_bar(axes, left, right, 0.0, right_share, "bar"))
        low, high = sorted((right_share, sure))
        if math.isfinite(sure):
            drawing.append(_bar(axes, left, right, low, high, "gap"))
        drawing.append(_bar(many, left, right, 0.0, float(count), "bar"))
        middle, foot = (left + right) / 2, many.up(count) - 4
        turned = f"translate({middle + 4:.1f} {foot:.1f}) rotate(-90)"
        drawing.append(element("text", f"{count:,}", transform=turned, class_="count"))
    drawing.append(
        element(
            "line",
            x1=axes.across(0),
            y1=axes.up(0),
            x2=axes.across(1),
            y2=axes.up(1),
            class_="diagonal",
        )
    )
    drawing.extend(many.rows([0.0], "{:g}".format))
    drawing.extend(many.columns(fifths, lambda tick: percent(tick, 0)))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    for text, y in (("accuracy", _TOP + 4), ("samples", 222.0)):
        drawing.append(element("text", text, x=_LEFT + 6, y=y + 6, class_="name"))
    drawing.append(element("text", "confidence", x=middle, y=327.0, text_anchor="middle"))
    return element("figure", drawing)


def _bar(axes: _Axes, left: float, right: float, low: float, high: float, kind: str) -> Element:
    top, width = axes.up(high), right - left
    return element("rect", x=left, y=top, width=width, height=axes.up(low) - top, class_=kind)
