"""Figures of a training run as PNG files, drawn off-screen.

All functions take data in host memory; those that write a file raise `CheckpointError` with its
path if it cannot be written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from xpnet import random
from xpnet.backend import HostArray
from xpnet.errors import ShapeError
from xpnet.figures.calibration import Predictions
from xpnet.figures.curves import Curve, draw_curves
from xpnet.figures.history import History
from xpnet.figures.style import (
    BLUE,
    GREY,
    RED,
    SMALL,
    TEXT,
    TITLE,
    new_figure,
    png,
    shortened,
    write,
)
from xpnet.utils.channels import visible
from xpnet.utils.text import percent

_RIGHT = LinearSegmentedColormap.from_list("right", ["#f2f7fb", "#7db8dd"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#fdbb84", "#d7301f"])
_MOST_CLASSES = 26
_MOST_SAMPLES = 25
_MOST_UNITS = 100
_MOST_ROWS, _MOST_VERSIONS = 8, 9


def training_metrics(history: History, path: str | Path) -> None:
    """Loss and accuracy of training and validation, side by side.

    The horizontal axis counts epochs, or steps where records do not come once in so many
    epochs. The loss has a logarithmic axis when it spans more than a factor of 30. A star
    marks the best validation value; the legend gives it and the last values. Without any
    accuracy the loss stands alone; without any record the figure says so.
    """
    write(_training_figure(history), path)


def training_metrics_png(history: History) -> bytes:
    """The figure of `training_metrics` as a small PNG file (bytes, 64 colours)."""
    return png(_training_figure(history), colours=64)


def _training_figure(history: History) -> Figure:
    figure = new_figure(11, 4.4)
    if not history.records:
        figure.text(0.5, 0.5, "no record yet", ha="center", va="center", fontsize=TITLE)
        return figure
    has_accuracy = any(value is not None for value in history.column("accuracy"))
    loss_axes, *others = figure.subplots(1, 1 + has_accuracy, squeeze=False)[0]
    _curves(loss_axes, history, "loss")
    for axes in others:
        _curves(axes, history, "accuracy")
    return figure


def _curves(axes: Axes, history: History, name: str) -> None:
    x, unit = horizontal(history)
    is_loss = name == "loss"
    training, validation = (_finite_points(history, x, column) for column in (name, f"val_{name}"))
    best = (min if is_loss else max)(validation, key=lambda point: point[1], default=None)
    curves = [
        Curve("training", training),
        Curve("validation", validation, colour=1, dashed=True, best=best),
    ]
    draw_curves(axes, curves, unit=unit, as_percent=not is_loss)
    axes.set_title(name.capitalize(), fontsize=TITLE)
    if training or validation:
        axes.legend(loc="best", fontsize=TEXT)


def _finite_points(history: History, x: list[float], name: str) -> list[tuple[float, float]]:
    pairs = zip(x, history.column(name), strict=True)
    return [(place, v) for place, v in pairs if v is not None and math.isfinite(v)]


def horizontal(history: History) -> tuple[list[float], str]:
    """The horizontal position of each record, and its unit: epoch, step or record."""
    records = history.records
    steps, last = history.column("step"), records[-1]
    if not all(before < after for before, after in pairwise(steps)):
        # The history has the records of two runs.
        return [float(number) for number in range(1, len(records) + 1)], "record"
    per_epoch, rest = divmod(steps[0], max(records[0].epoch, 1))
    # An interrupted run's last record comes before its epoch's end.
    if (
        rest == 0
        and all(record.step == per_epoch * record.epoch for record in records[:-1])
        and per_epoch * (last.epoch - 1) < last.step <= per_epoch * last.epoch
    ):
        return [step / per_epoch for step in steps], "epoch"
    return steps, "step"


def confusion_matrix(counts: HostArray, classes: Sequence[str], path: str | Path) -> None:
    """The confusion matrix: a row for each true class, a column for each predicted one.

    `counts`: `(C, C)` integers. Off the diagonal the colour is the share of the true class
    that was mistaken so, on a scale of its own; on the diagonal the share that was recognised
    (the recall, also written there up to 12 classes). Up to 26 classes have their counts in
    the cells, empty where 0. Raises `ShapeError` unless there are C classes.
    """
    write(_confusion_figure(counts, classes), path)


def _confusion_figure(counts: HostArray, classes: Sequence[str]) -> Figure:
    size = len(classes)
    if counts.shape != (size, size) or size == 0:
        raise ShapeError(f"counts has shape {counts.shape}, expected ({size}, {size}): one a class")
    names = [shortened(name, 18) for name in classes]
    cell = 0.66 if size <= 12 else 0.46 if size <= _MOST_CLASSES else 12 / size
    side = max(size * cell, 3)
    cell = side / size
    # Inches for the longest name, at the side and, slanting, below.
    names_width = max(map(len, names)) * 0.62 * TEXT / 72
    slanted = names_width > cell * -(-size // _MOST_CLASSES)
    figure = new_figure(
        side + 1.9 + names_width, side + 1.1 + (0.72 * names_width if slanted else 0)
    )
    axes = figure.subplots()

    of_class = counts.sum(axis=1, keepdims=True)
    shares = counts / numpy.maximum(of_class, 1)
    diagonal = numpy.eye(size, dtype=bool)
    scale = Normalize(0, max(float(shares[~diagonal].max(initial=0)), 0.01))
    colours = numpy.where(diagonal[..., None], _RIGHT(shares), _WRONG(scale(shares)))
    axes.imshow(colours, interpolation="nearest")

    if size <= _MOST_CLASSES:
        longest = max(len(str(int(counts.max()))), 3)
        fontsize = min(TEXT, 0.85 * 72 * cell / (0.62 * longest))
        for (row, column), count in numpy.ndenumerate(counts):
            text = str(int(count))
            if row == column and size <= 12 and of_class[row, 0]:
                text += f"\n{percent(shares[row, row], 1)}"
            elif count == 0 and row != column:
                continue
            dark = colours[row, column, :3] @ (0.299, 0.587, 0.114) < 0.5
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=min(fontsize, SMALL) if "\n" in text else fontsize,
                color="white" if dark else "black",
            )

    # Only as many names as fit.
    ticks = range(0, size, -(-size // _MOST_CLASSES))
    shown = [names[tick] for tick in ticks]
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    # A dollar sign in a name begins no formula.
    axes.set_xticks(ticks, shown, parse_math=False, **(slant if slanted else {}))
    axes.set_yticks(ticks, shown, parse_math=False)
    axes.tick_params(labelsize=TEXT, length=0)
    axes.set_xlabel("predicted", fontsize=TEXT)
    axes.set_ylabel("true", fontsize=TEXT)
    if size <= _MOST_CLASSES:
        edges = numpy.arange(size + 1) - 0.5
        axes.hlines(edges, -0.5, size - 0.5, color="#dddddd", linewidth=0.8)
        axes.vlines(edges, -0.5, size - 0.5, color="#dddddd", linewidth=0.8)
    total, right = int(counts.sum()), int(counts.trace())
    title = f"Accuracy {percent(right / total)} ({right:,} of {total:,})" if total else "No sample"
    axes.set_title(title, fontsize=TITLE)
    bar = figure.colorbar(ScalarMappable(scale, _WRONG), ax=axes, shrink=0.7, pad=0.02)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    bar.set_label("mistaken, share of the true class", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def sample_predictions(
    images: HostArray,
    probabilities: HostArray,
    labels: HostArray,
    classes: Sequence[str],
    path: str | Path,
) -> None:
    """The first 25 samples with the predicted class, the true one, and their probabilities.

    `images`: `(N, height, width)`, N at least 1, shown on one grey scale, or with channels
    `(N, height, width, channels)`, shown in colour if these are three or four (the fourth is left
    out), uint8 as they are, other values scaled from smallest to largest; `probabilities`:
    `(N, C)`; `labels`: `(N,)`. A wrong prediction has a cross and a thick red frame.
    `choose_samples` chooses the samples. Raises `ShapeError`.
    """
    write(_samples_figure(images, probabilities, labels, classes), path)


def _samples_figure(
    images: HostArray, probabilities: HostArray, labels: HostArray, classes: Sequence[str]
) -> Figure:
    shape = (len(labels), len(classes))
    are_images = images.ndim in (3, 4)
    if not are_images or len(images) != len(labels) or probabilities.shape != shape or 0 in shape:
        raise ShapeError(
            f"images, probabilities and labels have shapes {images.shape}, "
            f"{probabilities.shape} and {labels.shape}, expected (N, height, width) or "
            f"(N, height, width, channels), (N, {len(classes)}) and (N,), N at least 1"
        )
    images = visible(images) if images.ndim == 4 else images
    count = min(len(images), _MOST_SAMPLES)
    columns = max(min(5, count), 3)
    rows = -(-count // columns)
    figure = new_figure(2 * columns, 2.5 * rows + 0.5)
    figure.suptitle("Predicted and true labels (✓ right, ✗ mistaken)", fontsize=TITLE)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    names = [shortened(name, 12) for name in classes]
    long = max(map(len, names)) > 4
    shades = Normalize(float(images[:count].min()), float(images[:count].max()))
    if images.ndim == 4 and images.dtype != numpy.uint8:
        # Colours have no scale of their own: they are shown from 0 to 1.
        images = numpy.asarray(shades(images[:count].astype(numpy.float64)))
    for number, axes in enumerate(grid):
        if number >= count:
            axes.set_axis_off()
            continue
        p, label = probabilities[number], int(labels[number])
        guess = int(p.argmax())
        wrong = guess != label
        axes.imshow(images[number], cmap="gray", norm=shades, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        title = f"{'✗' if wrong else '✓'} {names[guess]}  {percent(p[guess], 1)}"
        title += f"\ntrue {names[label]}" + (f"  {percent(p[label], 1)}" if wrong else "")
        axes.set_title(
            title,
            fontsize=SMALL if long else TEXT,
            color=RED if wrong else "black",
            fontweight="bold" if wrong and not long else "normal",
            parse_math=False,
        )
        axes.spines[:].set(color=RED if wrong else GREY, linewidth=4 if wrong else 0.5)
    return figure


def choose_samples(probabilities: HostArray, labels: HostArray, count: int, seed: int) -> HostArray:
    """Which samples to show: `(min(count, N),)` indices, the mistaken ones first.

    Up to a third (at least one, if there is any) are mistaken, those that the network was most
    confident about; the others are drawn at random from the correctly classified ones. If there
    are too few of one kind, there are more of the other. The same arguments give the same
    indices.
    """
    return choose_predictions(Predictions.of(probabilities, labels), labels, count, seed)


def choose_predictions(
    predictions: Predictions, labels: HostArray, count: int, seed: int
) -> HostArray:
    """The same as `choose_samples`, of predictions without the probabilities of all classes."""
    wrong = predictions.classes != labels
    mistakes, hits = numpy.flatnonzero(wrong), numpy.flatnonzero(~wrong)
    mistakes = mistakes[numpy.argsort(-predictions.confidence[mistakes], kind="stable")]
    hits = random.generator(seed, "samples to show").permutation(hits)
    of_mistakes = max(-(-count // 3), count - len(hits))
    mistakes = mistakes[:of_mistakes]
    return numpy.concatenate([mistakes, hits[: count - len(mistakes)]])


def augmented_samples(originals: HostArray, changed: HostArray, path: str | Path) -> None:
    """An original in each row, and beside it augmented versions of it.

    `originals`: `(n, height, width)`; `changed`: `(n, k, height, width)`, the versions of each;
    n and k at least 1, shown on one grey scale. The first 8 rows and the first 9 versions are
    drawn. Raises `ShapeError`.
    """
    write(_augmented_figure(originals, changed), path)


def _augmented_figure(originals: HostArray, changed: HostArray) -> Figure:
    shape = changed.shape[:1] + changed.shape[2:]
    if originals.ndim != 3 or originals.shape != shape or 0 in changed.shape:
        raise ShapeError(
            f"originals and changed have shapes {originals.shape} and {changed.shape}, expected "
            f"(n, height, width) and (n, k, height, width), n and k at least 1"
        )
    originals, changed = originals[:_MOST_ROWS], changed[:_MOST_ROWS, :_MOST_VERSIONS]
    rows, columns = len(originals), 1 + changed.shape[1]
    figure = new_figure(max(1.2 * columns, 6), 1.2 * rows + 0.9)
    figure.suptitle("Originals and augmented versions of each", fontsize=TITLE)
    grid = figure.subplots(rows, columns, squeeze=False)
    both = numpy.concatenate([originals[:, None], changed], axis=1)
    shades = Normalize(float(both.min()), float(both.max()))
    for (row, column), axes in numpy.ndenumerate(grid):
        axes.imshow(both[row, column], cmap="gray", norm=shades, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        is_original = column == 0
        if row == 0:
            axes.set_title("original" if is_original else str(column), fontsize=TEXT)
        axes.spines[:].set(color=BLUE if is_original else GREY, linewidth=4 if is_original else 0.5)
    return figure


def first_layer_weights(
    weight: HostArray, image_shape: tuple[int, int], path: str | Path, what: str = "units"
) -> None:
    """The weights of each unit of the first layer as an image.

    `weight`: `(out, in)` with `in == height * width`. The 100 units with the largest norm,
    largest first, on one colour scale that is symmetric around 0; it ends at the 99.8th
    percentile of the absolute weights shown, so that a single large one does not make the
    others pale. `what`: what the title calls the units, such as the filters of a convolution.
    Raises `ShapeError`.
    """
    write(_weights_figure(weight, image_shape, what), path)


def _weights_figure(weight: HostArray, image_shape: tuple[int, int], what: str = "units") -> Figure:
    height, width = image_shape
    if weight.ndim != 2 or weight.shape[1] != height * width or 0 in weight.shape:
        raise ShapeError(
            f"weight has shape {weight.shape}, expected (out, {height * width}) for images of "
            f"{height} x {width}"
        )
    norms = numpy.linalg.norm(weight, axis=1)
    chosen = weight[numpy.argsort(-norms, kind="stable")[:_MOST_UNITS]]
    count, units = len(chosen), len(weight)
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    gap = max(1, width // 14)
    mosaic = numpy.full((rows * (height + gap) - gap, columns * (width + gap) - gap), numpy.nan)
    for number, unit in enumerate(chosen):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = unit.reshape(height, width)
    limit = float(numpy.quantile(numpy.abs(chosen), 0.998)) or 1.0

    across = max(0.85 * columns, 5)
    figure = new_figure(across + 1.2, across * mosaic.shape[0] / mosaic.shape[1] + 0.6)
    axes = figure.subplots()
    image = axes.imshow(
        mosaic, cmap="RdBu_r", norm=Normalize(-limit, limit), interpolation="nearest"
    )
    axes.set_axis_off()
    title = "First layer: weights of " + (
        f"{count} of {units} {what} (largest norms)" if count < units else f"all {units} {what}"
    )
    axes.set_title(title, fontsize=TITLE)
    clipped = bool((numpy.abs(chosen) > limit).any())
    bar = figure.colorbar(
        image, ax=axes, shrink=0.7, pad=0.02, extend="both" if clipped else "neither"
    )
    bar.ax.tick_params(labelsize=TEXT)
    return figure
