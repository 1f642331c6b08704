"""The figure of docs/mathematics.md: `python examples/draw_network.py [OUT.png]`.

Neurons in columns, what flows forward in blue, what flows back in vermilion.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

# Okabe and Ito's blue and vermilion can be distinguished without colour vision.
BLUE, VERMILION, GREY, INK = "#0072B2", "#D55E00", "#b8bec6", "#222222"
WIDTH, HEIGHT, DPI = 8.0, 4.6, 200
MIDDLE, RADIUS, PITCH = 2.24, 0.15, 0.43
TOP, BOTTOM = 4.08, 0.56

Heights = Sequence[float | None]


def draw_network(path: Path, sizes: tuple[int, int, int] = (784, 128, 10)) -> None:
    """Write the figure of a network of `sizes` (features, hidden units, classes) as PNG."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()

    places, loss = (0.72, 3.22, 5.72), 7.27
    columns = [_heights(size) for size in sizes]
    for layer in (0, 1):
        _edges(axes, places[layer], columns[layer], places[layer + 1], columns[layer + 1])
    _edges(axes, places[2], columns[2], loss, [MIDDLE])
    for place, column, size in zip(places, columns, sizes, strict=True):
        _neurons(axes, place, column, size)
    _loss(axes, loss)

    features, hidden, classes = sizes
    _word(axes, places[0], TOP, r"$X$", f"(N, {features})", BLUE)
    _word(axes, places[1], TOP, r"$Z_1 \rightarrow A_1$", f"(N, {hidden})", BLUE)
    _word(axes, places[2], TOP, r"$Z_2$", f"(N, {classes})", BLUE)
    _word(axes, loss, TOP, r"$P \rightarrow L$", "mean over N", BLUE)
    _arrow(axes, 1.2, 2.5, TOP, rf"$W_1$ ({hidden}, {features}),  $b_1$", BLUE)
    _arrow(axes, 3.94, 5.25, TOP, rf"$W_2$ ({classes}, {hidden}),  $b_2$", BLUE)
    _arrow(axes, 6.2, 6.72, TOP, "softmax", BLUE)

    _word(axes, places[0], BOTTOM, r"$dX$", f"(N, {features})", VERMILION)
    _word(axes, places[1], BOTTOM, r"$dZ_1 \leftarrow dA_1$", f"(N, {hidden})", VERMILION)
    _word(axes, places[2], BOTTOM, r"$dZ_2$", f"(N, {classes})", VERMILION)
    _word(axes, loss, BOTTOM, r"$(P - Y)\,/\,N$", f"(N, {classes})", VERMILION)
    _arrow(axes, 2.4, 1.2, BOTTOM, r"$dW_1 = dZ_1^{\,T} X,\ db_1$", VERMILION)
    _arrow(axes, 5.25, 4.02, BOTTOM, r"$dW_2 = dZ_2^{\,T} A_1,\ db_2$", VERMILION)
    _arrow(axes, 6.62, 6.18, BOTTOM, "", VERMILION)

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(64).save(path, format="PNG", optimize=True)


def _heights(size: int) -> Heights:
    """Where a column's circles stand, from the top; None where dots say that some are left out."""
    slots = min(size, 6)
    top = MIDDLE + PITCH * (slots - 1) / 2
    heights: list[float | None] = [top - PITCH * slot for slot in range(slots)]
    if size > slots:
        heights[-2] = None
    return heights


def _edges(axes: Axes, left: float, sources: Heights, right: float, ends: Heights) -> None:
    for source in sources:
        for end in ends:
            if source is not None and end is not None:
                axes.plot([left, right], [source, end], color=GREY, linewidth=0.6, zorder=1)


def _neurons(axes: Axes, place: float, column: Heights, size: int) -> None:
    for slot, height in enumerate(column):
        if height is None:
            gap = MIDDLE + PITCH * ((len(column) - 1) / 2 - slot)
            for dot in (-0.11, 0, 0.11):
                axes.add_patch(Circle((place, gap + dot), 0.025, color=INK, zorder=3))
            continue
        axes.add_patch(
            Circle((place, height), RADIUS, facecolor="white", edgecolor=INK, lw=1.3, zorder=2)
        )
        number = size - 1 if slot == len(column) - 1 else slot
        axes.text(place, height, str(number), ha="center", va="center", fontsize=8, color=INK)


def _loss(axes: Axes, place: float) -> None:
    box = FancyBboxPatch(
        (place - 0.42, MIDDLE - 0.62),
        0.84,
        1.24,
        boxstyle="round,pad=0.04",
        facecolor="#f4f5f7",
        edgecolor=INK,
        lw=1.3,
    )
    axes.add_patch(box)
    axes.text(
        place, MIDDLE, "softmax\ncross-\nentropy", ha="center", va="center", fontsize=11, color=INK
    )


def _word(axes: Axes, place: float, height: float, symbol: str, shape: str, colour: str) -> None:
    axes.text(place, height, symbol, ha="center", va="center", fontsize=15, color=colour)
    axes.text(place, height - 0.26, shape, ha="center", va="center", fontsize=10, color=INK)


def _arrow(axes: Axes, start: float, end: float, height: float, label: str, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 2, "mutation_scale": 16}
    axes.annotate("", (end, height), (start, height), arrowprops=style)
    axes.text(
        (start + end) / 2, height + 0.19, label, ha="center", va="center", fontsize=11, color=colour
    )


if __name__ == "__main__":
    beside = Path(__file__).with_name("network.png")
    draw_network(Path(sys.argv[1]) if len(sys.argv) > 1 else beside)
