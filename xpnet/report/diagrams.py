"""The diagrams of a page: each an SVG that `xpnet.figures` draws, with its title and legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xpnet.figures.curves import Curve, curves_svg, value_text


@dataclass(frozen=True)
class Diagram:
    """A diagram: its title, its SVG (empty if there is no value yet), and its legend.

    `legend`: the CSS classes and the text of each entry.
    """

    title: str
    svg: str = ""
    legend: Sequence[tuple[str, str]] = ()


def curves_diagram(
    title: str,
    curves: Sequence[Curve],
    *,
    unit: str,
    as_percent: bool = False,
    floor: float | None = None,
) -> Diagram:
    """The diagram of `curves`; see `draw_curves`. It has a legend if the curves have names."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Diagram(title)
    drawing = curves_svg(
        title,
        curves,
        unit=unit,
        as_percent=as_percent,
        floor=floor,
        description=_description(title, curves, unit, as_percent),
    )
    named = [curve for curve in curves if curve.name]
    legend = [(curve.css, _legend_text(curve, unit, as_percent)) for curve in named]
    return Diagram(title, drawing, legend)


def _legend_text(curve: Curve, unit: str, as_percent: bool) -> str:
    text = f"{curve.name} {value_text(curve.points[-1][1], as_percent)}"
    if curve.best:
        place, value = curve.best
        text += f", best ★ {value_text(value, as_percent)} ({unit} {place:,.10g})"
    return text


def _description(title: str, curves: Sequence[Curve], unit: str, as_percent: bool) -> str:
    """The diagram in words, for screen readers."""
    parts = []
    for curve in curves:
        (first, begin), (last, end) = curve.points[0], curve.points[-1]
        start, stop = value_text(begin, as_percent), value_text(end, as_percent)
        name = f"{curve.name} from" if curve.name else "from"
        parts.append(f"{name} {start} at {unit} {first:.10g} to {stop} at {last:.10g}")
    return f"{title}: {'; '.join(parts)}"
