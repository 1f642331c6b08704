"""The tables as a plot: how many times the floor, on a logarithmic axis."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.peers import COMPETITORS, OURS
from bench.tables import Results, place
from xpnet.figures.style import BLUE, GREY, SMALL, TEXT, TITLE, VERMILION, new_figure, write

_TITLE_WIDTH = 40
"""Characters above a panel, which would else overlap the title of the next one."""


def draw(results: Results, path: Path) -> None:
    """Write the plot: a panel per workload, a row per competitor, bars over the quartiles."""
    write(figure(results), path)


def figure(results: Results) -> Figure:
    """The plot, as a figure of matplotlib."""
    workloads = results["workloads"]
    names = [
        competitor
        for competitor in COMPETITORS
        if competitor.name != "floor"
        if any(competitor.name in w["entries"] for w in workloads)
    ]
    columns = min(4, len(workloads))
    lines = -(-len(workloads) // columns)
    whole = new_figure(3.4 * columns + 2, (0.33 * len(names) + 1.3) * lines + 0.8)
    whole.suptitle(f"Times the floor (matrix products alone), {place(results)}", fontsize=TITLE)
    grid = whole.subplots(lines, columns, squeeze=False, sharey=True)
    for number, axes in enumerate(grid.ravel()):
        if number >= len(workloads):
            axes.set_axis_off()
            continue
        workload = workloads[number]
        entries = workload["entries"]
        if "floor" not in entries:
            axes.set_title(f"{workload['name']}\nno floor to measure by", fontsize=SMALL)
            continue
        floor = entries["floor"]["us_per_step"]
        axes.axvline(1, color=VERMILION, linewidth=1.5)
        for row, competitor in enumerate(names):
            entry = entries.get(competitor.name)
            if entry is None:
                continue
            ours = competitor.name in OURS
            low, high = (value / floor for value in entry["quartiles_us"])
            colour = BLUE if ours else GREY
            axes.plot([low, high], [row, row], color=colour, linewidth=3, alpha=0.5)
            axes.plot(
                entry["to_floor"],
                row,
                "o" if ours else "s",
                color=colour,
                markersize=8 - 2 * (not ours),
            )
            axes.annotate(
                f"{entry['to_floor']:.2f}",
                (entry["to_floor"], row),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=SMALL - 1,
                color=colour,
            )
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{workload['name']}\n{_wrapped(workload['title'])}", fontsize=SMALL)
        axes.set_yticks(range(len(names)), [competitor.title for competitor in names])
        axes.set_ylim(len(names) - 0.4, -0.8)
        axes.tick_params(labelsize=SMALL)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    whole.supxlabel("times the floor, logarithmic", fontsize=TEXT)
    return whole


def _wrapped(title: str) -> str:
    net, _, rest = title.partition(", ")
    return "\n".join([*textwrap.wrap(net, _TITLE_WIDTH), rest])
