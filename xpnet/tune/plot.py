"""The figure of a search."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from xpnet.backend import HostArray
from xpnet.errors import ShapeError
from xpnet.figures.style import (
    BLUE,
    GREY,
    RED,
    SMALL,
    TEXT,
    TITLE,
    VERMILION,
    new_figure,
    shortened,
    write,
)
from xpnet.utils.text import percent


def trials(
    values: Sequence[float | None],
    states: Sequence[str],
    points: Mapping[str, Sequence[Any]],
    logarithmic: Collection[str],
    best: int,
    objective: str,
    path: str | Path,
) -> None:
    """Draw the objective of each trial, by number and against each setting that was searched.

    `values`: the objective of each trial, or None; `states`: complete, pruned, or any other text
    for a failed trial (a cross at the lower edge); `points`: for each setting its value in each
    trial; `logarithmic`: the settings with a logarithmic axis; `best`: the number of the best
    trial, a complete one; `objective`: val_accuracy (higher is better) or val_loss (lower is
    better). Up to 6 different numbers, and other values, are drawn in columns, each in the order
    of its trials. The axis shows the better values: a triangle at the edge is a value far off.
    Raises `ShapeError` for sequences of different lengths.
    """
    write(_trials_figure(values, states, points, logarithmic, best, objective), path)


def _trials_figure(
    values: Sequence[float | None],
    states: Sequence[str],
    points: Mapping[str, Sequence[Any]],
    logarithmic: Collection[str],
    best: int,
    objective: str,
) -> Figure:
    count = len(values)
    if not count or len(states) != count or any(len(column) != count for column in points.values()):
        lengths = [len(column) for column in points.values()]
        raise ShapeError(
            f"values, states and points have lengths {count}, {len(states)} and {lengths}, "
            f"expected one and the same, at least 1"
        )
    columns = min(max(len(points), 1), 4)
    rows = -(-len(points) // columns)
    figure = new_figure(11, 3.8 + 2.9 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.8, *[2.9] * rows])
    y = numpy.array([math.nan if value is None else value for value in values], float)
    y[~numpy.isfinite(y)] = math.nan
    complete = numpy.array([state == "complete" for state in states]) & ~numpy.isnan(y)
    pruned = numpy.array([state == "pruned" for state in states]) & ~numpy.isnan(y)
    more = objective == "val_accuracy"
    limits = _visible_range(y[complete | pruned], y[complete], more)

    def scatter(axes: Axes, x: HostArray) -> None:
        failed = ~(complete | pruned)
        for which, label, style in (
            (complete, "complete", {"color": BLUE, "alpha": 0.8}),
            (pruned, "pruned", {"facecolors": "none", "edgecolors": GREY}),
        ):
            for far, marker in ((False, "o"), (True, "v" if more else "^")):
                chosen = which & (((y < limits[0]) | (y > limits[1])) == far)
                height = numpy.clip(y[chosen], *limits)
                axes.scatter(
                    x[chosen],
                    height,
                    s=36,
                    marker=marker,
                    zorder=2,
                    label=label if chosen.any() and not far else None,
                    **style,
                )
        if failed.any():
            bottom = axes.get_xaxis_transform()
            low = numpy.full(int(failed.sum()), 0.03)
            axes.scatter(
                x[failed], low, s=44, marker="x", color=RED, transform=bottom, label="failed"
            )
        axes.scatter(
            [x[best]],
            [y[best]],
            s=240,
            marker="*",
            color=VERMILION,
            edgecolors="black",
            zorder=3,
            label=f"best {show(y[best])} (trial {best})",
        )
        margin = 0.06 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - margin, limits[1] + margin)
        if more:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)

    def show(value: float) -> str:
        return percent(value) if more else f"{value:.4g}"

    name = "Validation accuracy" if more else "Validation loss"
    top = figure.add_subplot(grid[0, :])
    so_far = numpy.where(complete, y, -math.inf if more else math.inf)
    so_far = (numpy.maximum if more else numpy.minimum).accumulate(so_far)
    known = numpy.flatnonzero(numpy.isfinite(so_far))
    line = numpy.clip(so_far[known], *limits)
    top.step(known, line, where="post", color=VERMILION, linewidth=1.5, label="best so far")
    scatter(top, numpy.arange(count, dtype=float))
    top.set_xlim(-0.5 - 0.01 * count, count - 0.5 + 0.01 * count)
    top.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    top.set_title(f"{name} of {count} trials", fontsize=TITLE)
    top.set_xlabel("trial", fontsize=TEXT)
    top.tick_params(labelsize=TEXT)
    top.legend(loc="best", fontsize=SMALL)
    for number, (key, column) in enumerate(points.items()):
        axes = figure.add_subplot(grid[1 + number // columns, number % columns])
        scatter(axes, _positions(axes, column, key in logarithmic))
        axes.set_xlabel(key, fontsize=TEXT)
        axes.tick_params(labelsize=SMALL)
        if number % columns:
            axes.tick_params(labelleft=False)
    return figure


def _visible_range(shown: HostArray, complete: HostArray, more: bool) -> tuple[float, float]:
    """The lowest and the highest value that the axis shows."""
    low, high = float(shown.min()), float(shown.max())
    best = float(complete.max() if more else complete.min())
    if reach := 4 * abs(best - float(numpy.median(complete))):
        low, high = (max(low, best - reach), high) if more else (low, min(high, best + reach))
    if low == high:
        low, high = low - 0.01, high + 0.01
    return low, high


def _positions(axes: Axes, column: Sequence[Any], logarithmic: bool) -> HostArray:
    """The horizontal position of each trial; sets the labels of the axis."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)
    if numbers and len(set(column)) > 6:
        x = numpy.array(column, float)
        if logarithmic:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.grid(axis="x", alpha=0.3)
        return x
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in column]
    ordered = sorted(zip(map(_order, column), texts, strict=True))
    kinds = list(dict.fromkeys(text for _, text in ordered))
    x = numpy.zeros(len(column))
    for place, kind in enumerate(kinds):
        members = numpy.flatnonzero([text == kind for text in texts])
        spread = numpy.linspace(-0.3, 0.3, len(members)) if len(members) > 1 else 0.0
        x[members] = place + spread
    names = [shortened(kind.strip("[]()").rstrip(","), 16) or "none" for kind in kinds]
    crowded = sum(map(len, names)) > 24
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(kinds)), names, parse_math=False, **(slant if crowded else {}))
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    for edge in range(1, len(kinds)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    return x


def _order(value: Any) -> tuple[int, Any]:
    if isinstance(value, list | tuple):
        return 1, [_order(item) for item in value]
    return (2, value) if isinstance(value, str) else (0, value)
