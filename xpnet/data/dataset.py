"""`Dataset`: the result of every reader, samples and labels in host memory, checked on creation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.data.mapped import MappedRows, Samples, is_mapped
from xpnet.errors import DataError, short_repr
from xpnet.utils.arguments import is_whole
from xpnet.utils.channels import shape_text

MAX_CLASSES = 65_536
"""More classes than this are considered a mistake in the labels."""

_DTYPES = (numpy.uint8, numpy.float32, numpy.float64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples, one per row, and their labels.

    `x`: `(N, features)`, uint8 (pixels) or float32 / float64, finite; N and features are at
    least 1. A memory map, also `(N, height, width)` or `(N, height, width, 1)`, stays in its file,
    as `MappedRows`.
    `labels`: `(N,)` integers in `0..len(classes) - 1`, kept as int64, or None for unlabelled
    data. `classes`: the name of each label. `image_shape`: `(height, width)` where a row is an
    image of one channel, `(height, width, channels)` where it has several, in the order
    channels, height, width, as PyTorch flattens an image; None where a row is not an image.
    `(height, width, 1)` becomes `(height, width)`.

    Raises `DataError`, naming the field, for anything else.
    """

    x: Samples
    labels: HostArray | None
    classes: tuple[str, ...]
    image_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if is_mapped(self.x):
            if self.x.ndim > 2 and self.image_shape is None:
                object.__setattr__(self, "image_shape", self.x.shape[1:])
            object.__setattr__(self, "x", MappedRows(self.x))
        if not isinstance(self.x, numpy.ndarray | MappedRows) or self.x.dtype not in _DTYPES:
            raise DataError(
                f"x is {_kind(self.x)}: give a NumPy array of uint8, float32 or float64"
            )
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise DataError(
                f"x has shape {self.x.shape}: give (samples, features), each at least 1"
            )
        if isinstance(self.x, numpy.ndarray):
            # Gathering rows is fast only where rows are contiguous.
            object.__setattr__(self, "x", numpy.ascontiguousarray(self.x))
        if not isinstance(self.x, MappedRows) or self.x.indices is None:
            # Selected rows of a map were checked with the whole map.
            check_finite(self.x, "x")
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(self.labels))
        if self.image_shape is not None:
            object.__setattr__(self, "image_shape", self._checked_shape(self.image_shape))

    def _checked_shape(self, shape: Any) -> tuple[int, ...]:
        is_shape = isinstance(shape, tuple | list) and len(shape) in (2, 3)
        if not is_shape or not all(is_whole(size) and size > 0 for size in shape):
            raise DataError(
                f"image_shape must be (height, width) or (height, width, channels), whole numbers "
                f"above 0, found {short_repr(shape)}"
            )
        if math.prod(shape) != self.features:
            raise DataError(
                f"image_shape {tuple(shape)} does not hold the {self.features} features of x"
            )
        sizes = tuple(int(size) for size in shape)
        return sizes[:2] if sizes[2:] == (1,) else sizes

    def _checked_labels(self, labels: HostArray) -> HostArray:
        if not isinstance(labels, numpy.ndarray) or labels.dtype.kind not in "iu":
            raise DataError(f"labels is {_kind(labels)}: give a NumPy array of integers")
        if labels.shape != (len(self),):
            raise DataError(
                f"labels has shape {labels.shape} where x has {len(self)} rows: give one each"
            )
        wrong = (labels < 0) | (labels >= len(self.classes))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"labels[{row}] is {labels[row]}, which is not in 0..{len(self.classes) - 1} "
                f"({len(self.classes)} classes)"
            )
        return numpy.asarray(labels).astype(numpy.int64, copy=False)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def features(self) -> int:
        """The number of features of one sample."""
        return int(self.x.shape[1])

    def take(self, indices: HostArray) -> Dataset:
        """The samples at `indices`, `(n,)` integers, in that order: a copy, or mapped as before."""
        labels = None if self.labels is None else self.labels[indices]
        x = self.x.take(indices) if isinstance(self.x, MappedRows) else self.x[indices]
        return Dataset(x, labels, self.classes, self.image_shape)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as its files define it.

    `name`: its name in the catalogue, or the name of the file or folder. `test`: the test set of
    the files, or None. `sha256`: a hex digest of the decompressed content; for samples that stay in
    their file a digest of some rows, evenly spaced, and of the labels, which begins with
    `sampled:`. `label`: the label column of a table, to be printed; `hint`: what to do about a
    table without labels. Raises `DataError` when the two parts differ in features, in the shape of
    their images or in classes, or when only one of them is labelled. `as_read`: the images are
    image files as they were read, without any change; those to predict are read in the same way.
    """

    name: str
    train: Dataset
    test: Dataset | None
    sha256: str
    label: str = ""
    hint: str = ""
    as_read: bool = False

    def __post_init__(self) -> None:
        if self.test is None:
            return
        if self.test.features != self.train.features:
            raise DataError(
                f"{self.name}: a test sample has {self.test.features} features, a training "
                f"sample {self.train.features}"
            )
        if self.test.image_shape != self.train.image_shape:
            test, train = (
                "no images" if shape is None else f"images of {shape_text(shape)}"
                for shape in (self.test.image_shape, self.train.image_shape)
            )
            raise DataError(f"{self.name}: the test set holds {test}, the training set {train}")
        if self.test.classes != self.train.classes:
            raise DataError(f"{self.name}: the test set has other classes than the training set")
        if (self.test.labels is None) != (self.train.labels is None):
            raise DataError(f"{self.name}: one of the training and test sets has no labels")


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of one experiment; `validation` may be None."""

    train: Dataset
    validation: Dataset | None
    test: Dataset


def one_hot(labels: HostArray, classes: int, dtype: Any = numpy.float32) -> HostArray:
    """`(N,)` integer labels as `(N, classes)`: 1 at each row's label, 0 elsewhere.

    Raises `DataError` for a label that is not in `0..classes - 1`.
    """
    labels = numpy.asarray(labels)
    if labels.ndim != 1 or (labels.dtype.kind not in "iu" and labels.size):
        raise DataError(
            f"labels is {_kind(labels)} of shape {labels.shape}: give integers of shape (N,)"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"label {wrong} is not in 0..{classes - 1} ({classes} classes)")
    out = numpy.zeros((labels.size, classes), dtype=dtype)
    out[numpy.arange(labels.size), labels.astype(numpy.intp)] = 1
    return out


def numbered_classes(*parts: HostArray | None) -> tuple[str, ...]:
    """The names `"0"`..`"max"` for the largest label in any of `parts`.

    A label below the largest that never occurs is a class too: `{0, 2}` gives three classes,
    `1..10` eleven. Raises `DataError` for more than `MAX_CLASSES`.
    """
    largest = max((int(part.max()) for part in parts if part is not None), default=-1)
    if largest >= MAX_CLASSES:
        raise DataError(f"label {largest} is larger than {MAX_CLASSES - 1}, the largest allowed")
    return tuple(str(label) for label in range(largest + 1))


def square_shape(features: int) -> tuple[int, int] | None:
    """`(side, side)` where `features` is a perfect square, such as 784; else None."""
    side = math.isqrt(features)
    return (side, side) if side * side == features else None


def check_finite(x: Samples, name: str) -> None:
    """Raise `DataError`, naming the first wrong index of `x`, unless every value is finite."""
    # Minimum and maximum need no temporary array, and a NaN makes both of them NaN.
    if x.dtype.kind != "f" or (numpy.isfinite(x.min()) and numpy.isfinite(x.max())):
        return
    for rows, block in x.blocks() if isinstance(x, MappedRows) else [(slice(0, len(x)), x)]:
        wrong = ~numpy.isfinite(block)
        if wrong.any():
            place = numpy.argwhere(wrong)[0]
            value = block[tuple(place)]
            shown = ", ".join(map(str, [place[0] + rows.start, *place[1:]]))
            raise DataError(f"{name}[{shown}] is {value}: every value must be finite")


def _kind(value: object) -> str:
    if isinstance(value, numpy.ndarray):
        return f"an array of {value.dtype}"
    return f"of type {type(value).__name__}"
