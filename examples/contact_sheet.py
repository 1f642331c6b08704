"""Puts the figures of a run on one sheet: `python examples/contact_sheet.py RUN OUT.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 460, 12
ROWS = [["training_metrics.png"], ["confusion_matrix.png", "sample_predictions.png", "weights.png"]]


def sheet(run: Path) -> Image.Image:
    """Every row of figures scaled to the width of the widest, on white."""
    rows = []
    for names in ROWS:
        figures = [Image.open(run / name).convert("RGB") for name in names]
        scaled = [p.resize((p.width * HEIGHT // p.height, HEIGHT)) for p in figures]
        row = Image.new("RGB", (sum(p.width + GAP for p in scaled) - GAP, HEIGHT), "white")
        left = 0
        for figure in scaled:
            row.paste(figure, (left, 0))
            left += figure.width + GAP
        rows.append(row)
    width = max(row.width for row in rows)
    rows = [row.resize((width, row.height * width // row.width)) for row in rows]
    page = Image.new("RGB", (width, sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + GAP
    return page


if __name__ == "__main__":
    run, out = map(Path, sys.argv[1:3])
    sheet(run).quantize(128).save(out, optimize=True)
