"""Where a classifier goes wrong, as parts of a page: the confusion matrix and the worst pairs."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy
from PIL import Image

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset
from xpnet.errors import truncate
from xpnet.figures.calibration import Predictions
from xpnet.figures.style import percent
from xpnet.metrics import ClassCounts, ConfusedPairs, Confusion
from xpnet.report.elements import element, note, picture, section, table

PAIRS, PICTURES = 6, 8
"""Pairs of classes that are shown, and mistakes of each."""

_MOST_CLASSES = 26
_SHADES = 9
_LARGEST = 96
_RIGHT, _WRONG = (36, 128, 214), (216, 90, 0)
_LONGEST_NAME = 24


def confusion_part(confusion: Confusion, classes: Sequence[str]) -> Element:
    """The matrix `(C, C)` as a table or, of more than 26 classes, as a picture.

    Of so many classes that only the pairs which occur are counted, it is a sentence.
    """
    sums = ClassCounts.of(confusion)
    total, right = int(sums.support.sum()), int(sums.hits.sum())
    title = f"{right:,} of {total:,} test samples are right ({percent(right / max(total, 1))})."
    if isinstance(confusion, ConfusedPairs):
        why = f"A matrix of {len(classes):,} classes is too large to be shown."
        return section("Confusion", element("p", title), note(why))
    return section("Confusion", element("p", title), *_shown(confusion, classes))


def _shown(counts: HostArray, classes: Sequence[str]) -> tuple[Element, Element]:
    """The matrix, and what its colours mean."""
    of_class = numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / of_class
    diagonal = numpy.eye(len(counts), dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0.0)), 0.01)
    # Mistakes have a scale of their own, or the hits would pale them.
    strength = numpy.where(diagonal, shares, shares / worst)
    explained = note(
        element("span", "Blue", class_="below"),
        " is the share of a class that was recognised, ",
        element("span", "orange", class_="above"),
        f" what was mistaken, strongest at {percent(worst, 1)} of the class. A row is a true "
        f"class, a column what it was taken for.",
    )
    if len(counts) <= _MOST_CLASSES:
        shown = _matrix(counts, strength, classes)
    else:
        shown = _map(strength, diagonal, f"Confusion matrix of {len(classes)} classes")
    return shown, explained


def _matrix(counts: HostArray, strength: HostArray, classes: Sequence[str]) -> Element:
    names = [truncate(name, _LONGEST_NAME) for name in classes]
    shades = numpy.ceil(strength * _SHADES).astype(int)
    rows: list[list[Element | str]] = []
    for row, name in enumerate(names):
        cells: list[Element | str] = [name]
        for column in range(len(names)):
            kind = "right" if row == column else "wrong"
            count = int(counts[row, column])
            # A hit is worth its number even where there is none.
            text = f"{count:,}" if count or row == column else ""
            cells.append(element("td", text, class_=f"{kind} shade{shades[row, column]}"))
        rows.append(cells)
    return table(
        ["true", *names],
        rows,
        caption="Confusion matrix: a row is a true class, a column the predicted one",
        class_="numbers matrix",
    )


def _map(strength: HostArray, diagonal: HostArray, alt: str) -> Element:
    """A pixel for each pair of classes, coloured over the page's background."""
    pixels = numpy.empty((*strength.shape, 4), numpy.uint8)
    pixels[..., :3] = numpy.where(diagonal[..., None], _RIGHT, _WRONG)
    pixels[..., 3] = numpy.ceil(255 * numpy.sqrt(strength))
    return picture(pixels, alt, class_="map")


def mistakes_part(confusion: Confusion, predictions: Predictions, data: Dataset) -> Element:
    """The pairs most often confused, and the mistakes of each that the network was surest of."""
    pairs, support = worst_pairs(confusion, PAIRS), ClassCounts.of(confusion).support
    if not pairs:
        return section("Worst confused", note("No test sample was mistaken."))
    shown = element("div", class_="pairs")
    for true, predicted, times in pairs:
        name, other = (truncate(data.classes[i], _LONGEST_NAME) for i in (true, predicted))
        samples = int(support[true])
        shown.append(
            element(
                "div",
                element("h3", f"{name} taken for {other}"),
                note(f"{times:,} of {samples:,} test samples, {percent(times / samples, 1)}"),
                _examples(true, predicted, predictions, data),
            )
        )
    explained = f"Of each pair up to {PICTURES}, first those of which the network was surest."
    return section("Worst confused", shown, note(explained))


def _examples(true: int, predicted: int, predictions: Predictions, data: Dataset) -> Element:
    assert data.labels is not None
    found = numpy.flatnonzero((data.labels == true) & (predictions.classes == predicted))
    order = numpy.argsort(-predictions.confidence[found], kind="stable")
    chosen = found[order[:PICTURES]]
    listed = element("ul", class_="mistakes")
    names = [truncate(data.classes[i], _LONGEST_NAME) for i in (predicted, true)]
    for index in chosen.tolist():
        sure = predictions.confidence[index], predictions.of_true[index]
        shares = [percent(float(share), 1) for share in sure]
        words = element(
            "figcaption",
            element("span", f"as {names[0]} {shares[0]}"),
            element("span", f"true {names[1]} {shares[1]}"),
        )
        figure = element("figure", words)
        if data.image_shape is not None:
            alt = f"Test sample {index + 1}"
            figure.insert(0, picture(_pixels(data, index), alt, class_="sample"))
        else:
            figure.insert(0, note(f"test sample {index + 1:,}"))
        listed.append(element("li", figure))
    return listed


def _pixels(data: Dataset, index: int) -> HostArray:
    """A sample as grey levels `(height, width)` uint8, a large one made smaller."""
    assert data.image_shape is not None
    values = data.x[index : index + 1].reshape(data.image_shape)
    if values.dtype != numpy.uint8:
        if values.dtype.kind == "i":
            values = values.astype(numpy.float64)  # the distance of -128 from 0 is no int8
        # The distance of two floats may be more than a float can be.
        values = values / max(float(numpy.abs(values).max()), 1e-300)
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low) if high > low else 0.0)
    image = Image.fromarray(values.astype(numpy.uint8))
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    return numpy.asarray(image)


def worst_pairs(confusion: Confusion, most: int) -> list[tuple[int, int, int]]:
    """The classes most often taken for another: `(true, predicted, times)`, worst first.

    `confusion`: on the host. Of equally many, first the larger share of its true class.
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
