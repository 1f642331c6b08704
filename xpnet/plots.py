"""Pictures of a training run as PNG files, drawn off-screen.

Each is drawn on a `Figure` and an Agg canvas of its own: no window, no pyplot, no state that
two threads or a caller's notebook could share. A file's bytes are a function of what is drawn.
All functions take data in host memory; those that write raise `CheckpointError`, naming the
path, when it cannot be written.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from xpnet import random
from xpnet.backend import HostArray
from xpnet.checkpoint import write_atomically
from xpnet.errors import ShapeError
from xpnet.history import History

_DPI = 130
_TITLE, _TEXT, _SMALL = 14, 12, 10
# Okabe and Ito's blue and vermilion can be told apart without colour vision.
_BLUE, _VERMILION, _RED, _GREY = "#0072B2", "#D55E00", "#c1121f", "#666666"
_RIGHT = LinearSegmentedColormap.from_list("right", ["#f2f7fb", "#7db8dd"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#fdbb84", "#d7301f"])
_MOST_CLASSES = 26
_MOST_SAMPLES = 25
_MOST_UNITS = 100
_MOST_ROWS, _MOST_VERSIONS = 8, 9
_MANY_RECORDS = 40


def training_metrics(history: History, path: str | Path) -> None:
    """Loss and accuracy of training and validation, side by side.

    The horizontal axis counts epochs, or steps where records do not come once in so many
    epochs. The loss has a logarithmic axis when it spans more than a factor of 30. A star
    marks the best validation value; the legend gives it and the last values. Without any
    accuracy the loss stands alone; without any record the picture says so.
    """
    _write(_training_figure(history), path)


def _training_figure(history: History) -> Figure:
    figure = _figure(11, 4.4)
    if not history.records:
        figure.text(0.5, 0.5, "no record yet", ha="center", va="center", fontsize=_TITLE)
        return figure
    has_accuracy = any(value is not None for value in history.column("accuracy"))
    loss_axes, *others = figure.subplots(1, 1 + has_accuracy, squeeze=False)[0]
    _curves(loss_axes, history, "loss", "{:.4g}".format)
    for axes in others:
        _curves(axes, history, "accuracy", _percent)
    return figure


def _curves(axes: Axes, history: History, name: str, show: Any) -> None:
    x, unit = _horizontal(history)
    kinds = (
        ("training", name, _BLUE, "-", "o"),
        ("validation", f"val_{name}", _VERMILION, "--", "s"),
    )
    drawn: list[float] = []
    for label, column, colour, line, marker in kinds:
        points = [
            (place, value)
            for place, value in zip(x, history.column(column), strict=True)
            if value is not None and math.isfinite(value)
        ]
        if not points:
            continue
        places, values = zip(*points, strict=True)
        drawn += values
        axes.plot(
            places,
            values,
            line,
            color=colour,
            linewidth=2,
            marker=marker if len(points) <= _MANY_RECORDS else None,
            markersize=5,
            label=f"{label} {show(values[-1])}",
        )
        if label == "validation":
            best = values.index(min(values) if name == "loss" else max(values))
            axes.plot(
                places[best],
                values[best],
                "*",
                color=colour,
                markeredgecolor="black",
                markersize=16,
                zorder=3,
                label=f"best {show(values[best])} ({unit} {places[best]:.10g})",
            )
    if name == "loss" and drawn and 0 < 30 * min(drawn) < max(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif name == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(x) == 1:
        axes.set_xlim(x[0] - 1, x[0] + 1)
    axes.set_title(name.capitalize(), fontsize=_TITLE)
    axes.set_xlabel(unit, fontsize=_TEXT)
    axes.tick_params(labelsize=_TEXT)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        axes.legend(loc="best", fontsize=_TEXT)


def _horizontal(history: History) -> tuple[list[float], str]:
    """Where each record stands, and the unit of that."""
    records = history.records
    steps, last = history.column("step"), records[-1]
    if not all(before < after for before, after in pairwise(steps)):
        # Two runs went into one history.
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
    """Which class was taken for which: a row is a true class, a column a predicted one.

    `counts`: `(C, C)` integers. Off the diagonal the colour is the share of the true class
    that was mistaken so, on a scale of its own; on the diagonal the share that was recognised
    (the recall, also written there up to 12 classes). Up to 26 classes have their counts in
    the cells, empty where 0. Raises `ShapeError` unless there are C classes.
    """
    _write(_confusion_figure(counts, classes), path)


def _confusion_figure(counts: HostArray, classes: Sequence[str]) -> Figure:
    size = len(classes)
    if counts.shape != (size, size) or size == 0:
        raise ShapeError(f"counts has shape {counts.shape}, expected ({size}, {size}): one a class")
    names = [_shortened(name, 18) for name in classes]
    cell = 0.66 if size <= 12 else 0.46 if size <= _MOST_CLASSES else 12 / size
    side = max(size * cell, 3)
    cell = side / size
    # Inches that the longest name takes at the side, and slanting, below.
    room = max(map(len, names)) * 0.62 * _TEXT / 72
    slanted = room > cell * -(-size // _MOST_CLASSES)
    figure = _figure(side + 1.9 + room, side + 1.1 + (0.72 * room if slanted else 0))
    axes = figure.subplots()

    of_class = counts.sum(axis=1, keepdims=True)
    shares = counts / numpy.maximum(of_class, 1)
    diagonal = numpy.eye(size, dtype=bool)
    scale = Normalize(0, max(float(shares[~diagonal].max(initial=0)), 0.01))
    colours = numpy.where(diagonal[..., None], _RIGHT(shares), _WRONG(scale(shares)))
    axes.imshow(colours, interpolation="nearest")

    if size <= _MOST_CLASSES:
        longest = max(len(str(int(counts.max()))), 3)
        fontsize = min(_TEXT, 0.85 * 72 * cell / (0.62 * longest))
        for (row, column), count in numpy.ndenumerate(counts):
            text = str(int(count))
            if row == column and size <= 12 and of_class[row, 0]:
                text += f"\n{_percent(shares[row, row], 1)}"
            elif count == 0 and row != column:
                continue
            dark = colours[row, column, :3] @ (0.299, 0.587, 0.114) < 0.5
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=min(fontsize, _SMALL) if "\n" in text else fontsize,
                color="white" if dark else "black",
            )

    # Only so many names as have room.
    ticks = range(0, size, -(-size // _MOST_CLASSES))
    shown = [names[tick] for tick in ticks]
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    # A dollar sign in a name is a dollar sign.
    axes.set_xticks(ticks, shown, parse_math=False, **(slant if slanted else {}))
    axes.set_yticks(ticks, shown, parse_math=False)
    axes.tick_params(labelsize=_TEXT, length=0)
    axes.set_xlabel("predicted", fontsize=_TEXT)
    axes.set_ylabel("true", fontsize=_TEXT)
    if size <= _MOST_CLASSES:
        edges = numpy.arange(size + 1) - 0.5
        axes.hlines(edges, -0.5, size - 0.5, color="#dddddd", linewidth=0.8)
        axes.vlines(edges, -0.5, size - 0.5, color="#dddddd", linewidth=0.8)
    total, right = int(counts.sum()), int(counts.trace())
    title = f"Accuracy {_percent(right / total)} ({right:,} of {total:,})" if total else "No sample"
    axes.set_title(title, fontsize=_TITLE)
    bar = figure.colorbar(ScalarMappable(scale, _WRONG), ax=axes, shrink=0.7, pad=0.02)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    bar.set_label("mistaken, share of the true class", fontsize=_TEXT)
    bar.ax.tick_params(labelsize=_SMALL)
    return figure


def sample_predictions(
    images: HostArray,
    probabilities: HostArray,
    labels: HostArray,
    classes: Sequence[str],
    path: str | Path,
) -> None:
    """The first 25 samples with the predicted class, the true one, and their probabilities.

    `images`: `(N, height, width)`, N at least 1, shown on one grey scale; `probabilities`:
    `(N, C)`; `labels`: `(N,)`. A wrong prediction has a cross and a thick red frame.
    `choose_samples` says which samples are worth a look. Raises `ShapeError`.
    """
    _write(_samples_figure(images, probabilities, labels, classes), path)


def _samples_figure(
    images: HostArray, probabilities: HostArray, labels: HostArray, classes: Sequence[str]
) -> Figure:
    shape = (len(labels), len(classes))
    if images.ndim != 3 or len(images) != len(labels) or probabilities.shape != shape or 0 in shape:
        raise ShapeError(
            f"images, probabilities and labels have shapes {images.shape}, "
            f"{probabilities.shape} and {labels.shape}, expected (N, height, width), "
            f"(N, {len(classes)}) and (N,), N at least 1"
        )
    count = min(len(images), _MOST_SAMPLES)
    columns = max(min(5, count), 3)
    rows = -(-count // columns)
    figure = _figure(2 * columns, 2.5 * rows + 0.5)
    figure.suptitle("Predicted and true labels (✓ right, ✗ mistaken)", fontsize=_TITLE)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    names = [_shortened(name, 12) for name in classes]
    long = max(map(len, names)) > 4
    shades = Normalize(float(images[:count].min()), float(images[:count].max()))
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
        title = f"{'✗' if wrong else '✓'} {names[guess]}  {_percent(p[guess], 1)}"
        title += f"\ntrue {names[label]}" + (f"  {_percent(p[label], 1)}" if wrong else "")
        axes.set_title(
            title,
            fontsize=_SMALL if long else _TEXT,
            color=_RED if wrong else "black",
            fontweight="bold" if wrong and not long else "normal",
            parse_math=False,
        )
        axes.spines[:].set(color=_RED if wrong else _GREY, linewidth=4 if wrong else 0.5)
    return figure


def choose_samples(probabilities: HostArray, labels: HostArray, count: int, seed: int) -> HostArray:
    """Which samples to show: `(min(count, N),)` indices, the mistaken ones first.

    Up to a third (at least one, if there is any) are mistaken, those that the network was
    surest of; the others are drawn at random from the rightly classified ones. Where one
    kind has too few, the other makes up for it. The same arguments give the same indices.
    """
    wrong = probabilities.argmax(axis=1) != labels
    mistakes, hits = numpy.flatnonzero(wrong), numpy.flatnonzero(~wrong)
    sureness = probabilities.max(axis=1)
    mistakes = mistakes[numpy.argsort(-sureness[mistakes], kind="stable")]
    hits = random.generator(seed, "samples to show").permutation(hits)
    of_mistakes = max(-(-count // 3), count - len(hits))
    mistakes = mistakes[:of_mistakes]
    return numpy.concatenate([mistakes, hits[: count - len(mistakes)]])


def augmented_samples(originals: HostArray, changed: HostArray, path: str | Path) -> None:
    """An original in each row, and beside it what augmentation makes of it.

    `originals`: `(n, height, width)`; `changed`: `(n, k, height, width)`, the versions of each;
    n and k at least 1, shown on one grey scale. The first 8 rows and the first 9 versions are
    drawn. Raises `ShapeError`.
    """
    _write(_augmented_figure(originals, changed), path)


def _augmented_figure(originals: HostArray, changed: HostArray) -> Figure:
    pictures = changed.shape[:1] + changed.shape[2:]
    if originals.ndim != 3 or originals.shape != pictures or 0 in changed.shape:
        raise ShapeError(
            f"originals and changed have shapes {originals.shape} and {changed.shape}, expected "
            f"(n, height, width) and (n, k, height, width), n and k at least 1"
        )
    originals, changed = originals[:_MOST_ROWS], changed[:_MOST_ROWS, :_MOST_VERSIONS]
    rows, columns = len(originals), 1 + changed.shape[1]
    figure = _figure(max(1.2 * columns, 6), 1.2 * rows + 0.9)
    figure.suptitle("Originals and augmented versions of each", fontsize=_TITLE)
    grid = figure.subplots(rows, columns, squeeze=False)
    both = numpy.concatenate([originals[:, None], changed], axis=1)
    shades = Normalize(float(both.min()), float(both.max()))
    for (row, column), axes in numpy.ndenumerate(grid):
        axes.imshow(both[row, column], cmap="gray", norm=shades, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        is_original = column == 0
        if row == 0:
            axes.set_title("original" if is_original else str(column), fontsize=_TEXT)
        axes.spines[:].set(
            color=_BLUE if is_original else _GREY, linewidth=4 if is_original else 0.5
        )
    return figure


def first_layer_weights(weight: HostArray, image_shape: tuple[int, int], path: str | Path) -> None:
    """What each unit of the first layer looks for: its weights as an image.

    `weight`: `(out, in)` with `in == height * width`. The 100 units with the largest norm,
    largest first, on one colour scale that is symmetric around 0; it ends at the 99.8th
    percentile of the absolute weights shown, so that a single one does not pale the others.
    Raises `ShapeError`.
    """
    _write(_weights_figure(weight, image_shape), path)


def _weights_figure(weight: HostArray, image_shape: tuple[int, int]) -> Figure:
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
    figure = _figure(across + 1.2, across * mosaic.shape[0] / mosaic.shape[1] + 0.6)
    axes = figure.subplots()
    image = axes.imshow(
        mosaic, cmap="RdBu_r", norm=Normalize(-limit, limit), interpolation="nearest"
    )
    axes.set_axis_off()
    title = "First layer: weights of " + (
        f"{count} of {units} units (largest norms)" if count < units else f"all {units} units"
    )
    axes.set_title(title, fontsize=_TITLE)
    clipped = bool((numpy.abs(chosen) > limit).any())
    bar = figure.colorbar(
        image, ax=axes, shrink=0.7, pad=0.02, extend="both" if clipped else "neither"
    )
    bar.ax.tick_params(labelsize=_TEXT)
    return figure


def trials(
    values: Sequence[float | None],
    states: Sequence[str],
    points: Mapping[str, Sequence[Any]],
    logarithmic: Collection[str],
    best: int,
    objective: str,
    path: str | Path,
) -> None:
    """A search: the objective of each trial in turn, and against each setting that was searched.

    `values`: a number a trial, None where it has none; `states`: complete, pruned, or anything
    else for a trial that failed (a cross at the lower edge); `points`: a value a trial of each
    setting; `logarithmic`: those that have such an axis; `best`: the number of the best trial,
    a complete one; `objective`: val_accuracy, where more is better, or val_loss, where less is.
    Up to 6 different numbers, and what is no number, stand in columns, each in the order of its
    trials. The better ones are shown apart: what lies far below is a triangle at the edge.
    Raises `ShapeError`.
    """
    _write(_trials_figure(values, states, points, logarithmic, best, objective), path)


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
    figure = _figure(11, 3.8 + 2.9 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.8, *[2.9] * rows])
    y = numpy.array([math.nan if value is None else value for value in values], float)
    y[~numpy.isfinite(y)] = math.nan
    complete = numpy.array([state == "complete" for state in states]) & ~numpy.isnan(y)
    pruned = numpy.array([state == "pruned" for state in states]) & ~numpy.isnan(y)
    more = objective == "val_accuracy"
    sight = _sight(y[complete | pruned], y[complete], more)

    def scatter(axes: Axes, x: HostArray) -> None:
        failed = ~(complete | pruned)
        for which, label, style in (
            (complete, "complete", {"color": _BLUE, "alpha": 0.8}),
            (pruned, "pruned", {"facecolors": "none", "edgecolors": _GREY}),
        ):
            for far, marker in ((False, "o"), (True, "v" if more else "^")):
                chosen = which & (((y < sight[0]) | (y > sight[1])) == far)
                height = numpy.clip(y[chosen], *sight)
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
                x[failed], low, s=44, marker="x", color=_RED, transform=bottom, label="failed"
            )
        axes.scatter(
            [x[best]],
            [y[best]],
            s=240,
            marker="*",
            color=_VERMILION,
            edgecolors="black",
            zorder=3,
            label=f"best {show(y[best])} (trial {best})",
        )
        margin = 0.06 * (sight[1] - sight[0])
        axes.set_ylim(sight[0] - margin, sight[1] + margin)
        if more:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)

    def show(value: float) -> str:
        return _percent(value) if more else f"{value:.4g}"

    name = "Validation accuracy" if more else "Validation loss"
    top = figure.add_subplot(grid[0, :])
    so_far = numpy.where(complete, y, -math.inf if more else math.inf)
    so_far = (numpy.maximum if more else numpy.minimum).accumulate(so_far)
    known = numpy.flatnonzero(numpy.isfinite(so_far))
    line = numpy.clip(so_far[known], *sight)
    top.step(known, line, where="post", color=_VERMILION, linewidth=1.5, label="best so far")
    scatter(top, numpy.arange(count, dtype=float))
    top.set_xlim(-0.5 - 0.01 * count, count - 0.5 + 0.01 * count)
    top.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    top.set_title(f"{name} of {count} trials", fontsize=_TITLE)
    top.set_xlabel("trial", fontsize=_TEXT)
    top.tick_params(labelsize=_TEXT)
    top.legend(loc="best", fontsize=_SMALL)
    for number, (key, column) in enumerate(points.items()):
        axes = figure.add_subplot(grid[1 + number // columns, number % columns])
        scatter(axes, _places(axes, column, key in logarithmic))
        axes.set_xlabel(key, fontsize=_TEXT)
        axes.tick_params(labelsize=_SMALL)
        if number % columns:
            axes.tick_params(labelleft=False)
    return figure


def _sight(shown: HostArray, complete: HostArray, more: bool) -> tuple[float, float]:
    """The lowest and the highest value that the axis need show."""
    low, high = float(shown.min()), float(shown.max())
    best = float(complete.max() if more else complete.min())
    if reach := 4 * abs(best - float(numpy.median(complete))):
        low, high = (max(low, best - reach), high) if more else (low, min(high, best + reach))
    if low == high:
        low, high = low - 0.01, high + 0.01
    return low, high


def _places(axes: Axes, column: Sequence[Any], logarithmic: bool) -> HostArray:
    """Where each trial stands on the horizontal axis, which is labelled to say so."""
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
    names = [_shortened(kind.strip("[]()").rstrip(","), 16) or "none" for kind in kinds]
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


def _figure(width: float, height: float) -> Figure:
    """An empty white figure, `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: str | Path) -> None:
    picture = io.BytesIO()
    # matplotlib would write its version.
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomically(Path(path), picture.getvalue())


def _shortened(name: str, length: int) -> str:
    """`name` on one line, without its middle where it is too long: ends tell names apart.

    A character that matplotlib's font does not have becomes the sign for that, U+FFFD.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    name = " ".join(str(name).split())
    name = "".join(letter if ord(letter) in known else "\ufffd" for letter in name)
    tail = length // 3
    return name if len(name) <= length else f"{name[: length - tail - 1]}…{name[-tail:]}"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"
