"""The mistakes of a classifier: the confusion matrix and the most confused pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from PIL import Image

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset
from xpnet.errors import truncate
from xpnet.figures.calibration import Predictions
from xpnet.metrics import ClassCounts, ConfusedPairs, Confusion
from xpnet.report.rendering import image_uri
from xpnet.utils.channels import as_images, visible

PAIRS, MISTAKES_PER_PAIR = 6, 8
"""The numbers of pairs of classes that are shown, and of mistakes of each pair."""

_MOST_CLASSES = 26
_SHADES = 9
_LARGEST = 96
_RIGHT, _WRONG = (36, 128, 214), (216, 90, 0)
_LONGEST_NAME = 24


def confusion_values(confusion: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """What `templates/confusion.html` shows of a confusion matrix `(C, C)` on the host.

    `hits` of `samples` and their share `accuracy`; `matrix`: the cells of each row or, with more
    than 26 classes, `image`: the matrix as the URI of an image; `strongest`: the largest share of
    a class that was mistaken for another. All three are None for `ConfusedPairs`.
    """
    sums = ClassCounts.of(confusion)
    samples, hits = int(sums.support.sum()), int(sums.hits.sum())
    values: dict[str, Any] = {
        "hits": hits,
        "samples": samples,
        "accuracy": hits / max(samples, 1),
        "class_count": len(classes),
        "classes": [truncate(name, _LONGEST_NAME) for name in classes],
        "matrix": None,
        "image": None,
        "strongest": None,
    }
    if isinstance(confusion, ConfusedPairs):
        return values
    shares = confusion / numpy.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = numpy.eye(len(confusion), dtype=bool)
    strongest = max(float(shares[~diagonal].max(initial=0.0)), 0.01)
    # Mistakes have a scale of their own: on that of the hits they would be too pale to be seen.
    strength = numpy.where(diagonal, shares, shares / strongest)
    if len(confusion) <= _MOST_CLASSES:
        values["matrix"] = _cells(confusion, strength)
    else:
        values["image"] = image_uri(_map(strength, diagonal))
    return values | {"strongest": strongest}


def _cells(counts: HostArray, strength: HostArray) -> list[list[dict[str, str | int]]]:
    shades = numpy.ceil(strength * _SHADES).astype(int).tolist()
    return [
        [
            {
                # On the diagonal a 0 is written too.
                "text": f"{count:,}" if count or row == column else "",
                "kind": "right" if row == column else "wrong",
                "shade": shades[row][column],
            }
            for column, count in enumerate(line)
        ]
        for row, line in enumerate(counts.tolist())
    ]


def _map(strength: HostArray, diagonal: HostArray) -> HostArray:
    """A pixel for each pair of classes `(C, C, 4)` uint8, over the background of the page."""
    pixels = numpy.empty((*strength.shape, 4), numpy.uint8)
    pixels[..., :3] = numpy.where(diagonal[..., None], _RIGHT, _WRONG)
    pixels[..., 3] = numpy.ceil(255 * numpy.sqrt(strength))
    return pixels


def mistake_values(
    confusion: Confusion, predictions: Predictions, data: Dataset
) -> list[dict[str, Any]]:
    """The pairs most often confused, each with the mistakes of the highest confidence."""
    support = ClassCounts.of(confusion).support
    return [
        {
            "true": truncate(data.classes[true], _LONGEST_NAME),
            "predicted": truncate(data.classes[predicted], _LONGEST_NAME),
            "times": times,
            "samples": int(support[true]),
            "mistakes": _examples(true, predicted, predictions, data),
        }
        for true, predicted, times in worst_pairs(confusion, PAIRS)
    ]


def _examples(
    true: int, predicted: int, predictions: Predictions, data: Dataset
) -> list[dict[str, Any]]:
    assert data.labels is not None
    found = numpy.flatnonzero((data.labels == true) & (predictions.classes == predicted))
    order = numpy.argsort(-predictions.confidence[found], kind="stable")
    return [
        {
            "number": index + 1,
            "image": sample_uri(data, index),
            "confidence": float(predictions.confidence[index]),
            "of_true": float(predictions.of_true[index]),
        }
        for index in found[order[:MISTAKES_PER_PAIR]].tolist()
    ]


def sample_uri(data: Dataset, index: int) -> str | None:
    """A sample as the URI of an image; None if samples are not images."""
    return None if data.image_shape is None else image_uri(_pixels(data, index))


def _pixels(data: Dataset, index: int) -> HostArray:
    """A sample, grey `(height, width)` or RGB `(height, width, 3)`, at most 96 pixels a side.

    uint8; other values are scaled so that the smallest is 0 and the largest 255.
    """
    assert data.image_shape is not None
    values = as_images(data.x[index : index + 1], data.image_shape)[0]
    values = visible(values) if values.ndim == 3 else values
    if values.dtype != numpy.uint8:
        if values.dtype.kind == "i":
            values = values.astype(numpy.float64)  # -128 has no absolute value in int8
        # Scaled first, because the difference of two floats may overflow.
        values = values / max(float(numpy.abs(values).max()), 1e-300)
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low) if high > low else 0.0)
    image = Image.fromarray(numpy.ascontiguousarray(values, numpy.uint8))
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    return numpy.asarray(image)


def worst_pairs(confusion: Confusion, most: int) -> list[tuple[int, int, int]]:
    """The most confused pairs of classes: `(true, predicted, times)`, the most frequent first.

    `confusion`: on the host. Among equal counts, the larger share of the true class comes first.
    """
    if isinstance(confusion, ConfusedPairs):
        is_mistake = confusion.true != confusion.predicted
        rows, columns = confusion.true[is_mistake], confusion.predicted[is_mistake]
        times = confusion.times[is_mistake]
    else:
        mistaken = confusion.copy()
        numpy.fill_diagonal(mistaken, 0)
        rows, columns = numpy.nonzero(mistaken)
        times = mistaken[rows, columns]
    of_class = ClassCounts.of(confusion).support[rows]
    chosen = numpy.lexsort((of_class, -times))[:most]
    return [(int(rows[i]), int(columns[i]), int(times[i])) for i in chosen]
