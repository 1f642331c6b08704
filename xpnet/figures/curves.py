"""Curves in one pair of axes: of the PNG file of a run and, as SVG, of the HTML pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from xpnet.figures.history import History
from xpnet.figures.style import CURVE_COLOURS, TEXT, is_wide, new_figure
from xpnet.figures.svg import SVG_WIDTH, css_classes, svg
from xpnet.utils.text import percent

LARGEST_VALUE = 1e270
"""The margins of an axis with larger values would not be finite: they are a twentieth of it, which
may have 600 decades."""

_HEIGHT = 220
_MANY_POINTS = 40
_STAR_SIZE = 16


@dataclass(frozen=True)
class Curve:
    """A curve: its name, its points `(x, y)` from left to right, and its style.

    `colour`: 0, 1, …; `best`: a point that is marked with a star.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    best: tuple[float, float] | None = None

    @property
    def is_dashed(self) -> bool:
        """Whether the line is dashed; with many curves, those that repeat a colour are."""
        return self.dashed or bool(self.colour // len(CURVE_COLOURS) % 2)

    @property
    def css(self) -> str:
        """The CSS classes of the curve."""
        return f"curve c{self.colour % len(CURVE_COLOURS)}" + (" dashed" if self.is_dashed else "")


def drawable_points(history: History, x: Sequence[float], name: str) -> list[tuple[float, float]]:
    """The points `(x, value)` of a column of the history whose value can be drawn."""
    pairs = zip(x, history.column(name), strict=True)
    return [(place, v) for place, v in pairs if v is not None and abs(v) < LARGEST_VALUE]


def value_text(value: float, as_percent: bool) -> str:
    """A value of a curve, for its legend."""
    return percent(value) if as_percent else f"{value:.4g}"


def draw_curves(
    axes: Axes,
    curves: Sequence[Curve],
    *,
    unit: str,
    as_percent: bool = False,
    floor: float | None = None,
) -> None:
    """Draw `curves`, each with its label for a legend.

    `unit`: the label of the horizontal axis; `floor`: the lower limit of the vertical axis.
    Without it, the axis is logarithmic if the values are not percentages and span more than a
    factor of 30.
    """
    for curve in curves:
        if curve.points:
            _draw(axes, curve, unit, as_percent)
    values = [y for curve in curves for _, y in curve.points]
    if floor is None and not as_percent and values and is_wide(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif as_percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    if floor is not None and values and min(values) >= floor:
        axes.set_ylim(bottom=floor)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    places = {x for curve in curves for x, _ in curve.points}
    if len(places) == 1:
        (place,) = places
        axes.set_xlim(place - 1, place + 1)
    axes.set_xlabel(unit, fontsize=TEXT)
    axes.tick_params(labelsize=TEXT)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, curve: Curve, unit: str, as_percent: bool) -> None:
    places, values = zip(*curve.points, strict=True)
    colour = CURVE_COLOURS[curve.colour % len(CURVE_COLOURS)]
    (line,) = axes.plot(
        places,
        values,
        "--" if curve.is_dashed else "-",
        color=colour,
        linewidth=2,
        marker=("s" if curve.is_dashed else "o") if len(values) <= _MANY_POINTS else None,
        markersize=5,
        label=f"{curve.name} {value_text(values[-1], as_percent)}",
    )
    line.set_gid(css_classes(curve.css))
    if curve.best:
        place, value = curve.best
        (star,) = axes.plot(
            place,
            value,
            "*",
            color=colour,
            markeredgecolor="black",
            markersize=_STAR_SIZE,
            zorder=3,
            label=f"best {value_text(value, as_percent)} ({unit} {place:.10g})",
        )
        star.set_gid(css_classes(f"star {curve.css}"))


def curves_svg(
    name: str,
    curves: Sequence[Curve],
    *,
    unit: str,
    description: str,
    as_percent: bool = False,
    floor: float | None = None,
) -> str:
    """The SVG of `curves`, without title and legend; the arguments are those of `draw_curves`."""
    figure = new_figure(SVG_WIDTH / 72, _HEIGHT / 72)
    axes = figure.subplots()
    draw_curves(axes, curves, unit=unit, as_percent=as_percent, floor=floor)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if axes.get_yscale() == "linear" and not as_percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return svg(figure, name, description)
