"""The common parts of all figures: drawing off-screen, sizes, colours, writing of files.

Each figure has a `Figure` and an Agg canvas of its own: no window, no pyplot, and no state that
two threads or the notebook of a caller could share. Equal figures give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

from xpnet._files import write_atomically

DPI = 130
TITLE, TEXT, SMALL = 14, 12, 10
# The blue and vermilion of Okabe and Ito differ for colour-blind readers too.
BLUE, VERMILION, RED, GREY = "#0072B2", "#D55E00", "#c1121f", "#666666"
CURVE_COLOURS = (BLUE, VERMILION, "#009e73", "#b8568c", "#957000", "#7a4fd0", "#000000", "#8a5a2b")
"""The colours of curves; further curves repeat them, dashed. `report.css` has dark ones, too."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path) -> None:
    """The figure as a PNG file. Raises `CheckpointError` where it cannot be written."""
    write_atomically(Path(path), png(figure))


def png(figure: Figure, colours: int | None = None) -> bytes:
    """The bytes of a PNG file of the figure, in so many `colours`: a third of the size."""
    file = io.BytesIO()
    # matplotlib would write its version.
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    if colours is None:
        return file.getvalue()
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(colours).save(small, "png", optimize=True)
    return small.getvalue()


def shortened(name: str, length: int) -> str:
    """`name` on one line, without its middle if it is too long: names often differ in their ends.

    A character that matplotlib's font does not have becomes the sign for that, U+FFFD.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    name = " ".join(str(name).split())
    name = "".join(letter if ord(letter) in known else "\ufffd" for letter in name)
    tail = length // 3
    return name if len(name) <= length else f"{name[: length - tail - 1]}…{name[-tail:]}"


def is_wide(values: Sequence[float]) -> bool:
    """Whether values span more than a factor of 30, so that their axis should be logarithmic."""
    return 0 < 30 * min(values) < max(values)
