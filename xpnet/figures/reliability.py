"""The reliability diagram: how often predictions of each confidence are right."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import FuncFormatter

from xpnet.figures.calibration import Calibration
from xpnet.figures.style import BLUE, SMALL, TEXT, VERMILION, new_figure
from xpnet.figures.svg import SVG_WIDTH, css_classes, svg
from xpnet.utils.text import percent

_HEIGHT = 330
_BAR_SHARE = 0.84


def reliability_svg(found: Calibration) -> str:
    """The accuracy of each bin of confidence, and below it the number of samples in the bin.

    A bar that ends below the diagonal belongs to predictions that are overconfident; the distance
    between accuracy and confidence is outlined.
    """
    figure = new_figure(SVG_WIDTH / 72, _HEIGHT / 72)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    _draw_accuracies(upper, found)
    _draw_counts(lower, found)
    lower.set_xlabel("confidence", fontsize=TEXT)
    lower.set_xlim(0, 1)
    for axes in (upper, lower):
        axes.tick_params(labelsize=TEXT)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    description = (
        f"Reliability diagram of {int(found.counts.sum()):,} test samples, expected calibration "
        f"error {percent(found.error)}; the table gives its numbers"
    )
    return svg(figure, "Reliability", description)


def _draw_accuracies(axes: Axes, found: Calibration) -> None:
    width = 1 / len(found.counts)
    for number, count in enumerate(found.counts.tolist()):
        if not count:
            continue
        middle, accuracy = (number + 0.5) * width, float(found.accuracy[number])
        (bar,) = axes.bar(middle, accuracy, _BAR_SHARE * width, color=BLUE)
        bar.set_gid(css_classes("bar"))
        distance = float(found.confidence[number]) - accuracy
        if math.isfinite(distance):
            (gap,) = axes.bar(
                middle,
                distance,
                _BAR_SHARE * width,
                bottom=accuracy,
                color=to_rgba(VERMILION, 0.25),
                edgecolor=VERMILION,
            )
            gap.set_gid(css_classes("gap"))
    (diagonal,) = axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
    diagonal.set_gid(css_classes("diagonal"))
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy", fontsize=TEXT)
    axes.grid(axis="y", alpha=0.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))


def _draw_counts(axes: Axes, found: Calibration) -> None:
    width = 1 / len(found.counts)
    for number, count in enumerate(found.counts.tolist()):
        if not count:
            continue
        middle = (number + 0.5) * width
        (bar,) = axes.bar(middle, count, _BAR_SHARE * width, color=BLUE)
        bar.set_gid(css_classes("bar"))
        text = axes.annotate(
            f"{count:,}",
            (middle, count),
            (0, 2),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=SMALL,
        )
        text.set_gid(css_classes("count"))
    axes.set_ylim(0, 1.5 * max(float(found.counts.max()), 1))
    axes.set_yticks([0])
    axes.set_ylabel("samples", fontsize=TEXT)
