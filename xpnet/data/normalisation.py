"""Normalisation of the stored values: fitted on the training set, saved with the network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset
from xpnet.data.mapped import MappedRows, Samples
from xpnet.errors import DataError, short_repr
from xpnet.utils.arguments import as_float

_ROWS_AT_ONCE = 4096
_VALUES_AT_ONCE = 2**22
# Larger means or deviations, or a larger ratio of deviations, slow training down.
_FAR = 10.0


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The map `x * scale + shift` from stored values to the inputs of a network.

    `scale`, `shift`: a number for all features, or `(features,)` float64 with one for each. Two
    normalisations are equal if their numbers are.
    """

    scale: float | HostArray
    shift: float | HostArray

    @classmethod
    def unit(cls, dataset: Dataset) -> Normalisation:
        """Pixels (uint8) to 0..1; floats are unchanged."""
        return cls(1 / 255 if dataset.x.dtype == numpy.uint8 else 1.0, 0.0)

    @classmethod
    def standard(cls, dataset: Dataset) -> Normalisation:
        """Mean 0 and standard deviation 1 over `dataset`, the training set, in float64.

        Images (`image_shape` is not None) have one `scale` and `shift` for all pixels; a table
        has one for each feature, and a constant feature becomes 0, as with scikit-learn's
        `StandardScaler`. Raises `DataError` when all values are constant, too large for a finite
        variance, or so close together that no float32 is large enough to scale them.
        """
        by_feature = dataset.image_shape is None
        with numpy.errstate(over="ignore", invalid="ignore"):
            mean, deviation, is_constant = _moments(dataset.x, by_feature)
        if not (numpy.isfinite(mean).all() and numpy.isfinite(deviation).all()):
            raise DataError(
                f"the training values cannot be standardised: they lie between "
                f"{dataset.x.min():g} and {dataset.x.max():g}, too far apart for a variance: "
                f"divide them first, or use unit normalisation"
            )
        if is_constant.all():
            raise DataError(
                f"the training values cannot be standardised: mean {mean.flat[0]:g}, standard "
                f"deviation {deviation.flat[0]:g}: use unit normalisation"
            )
        if not by_feature:
            return cls(1 / float(deviation), -float(mean) / float(deviation))
        scale = 1 / numpy.where(is_constant, 1.0, deviation)
        shift = -mean * scale
        largest = float(numpy.finfo(numpy.float32).max)
        wrong = ~((numpy.abs(scale) <= largest) & (numpy.abs(shift) <= largest))
        if wrong.any():
            number = int(wrong.argmax())
            raise DataError(
                f"feature {number + 1} of the training values cannot be standardised: its standard "
                f"deviation {deviation[number]:g} is too small for its mean {mean[number]:g}: "
                f"leave the feature out, or multiply it first"
            )
        scale.flags.writeable = shift.flags.writeable = False
        return cls(scale, shift)

    @classmethod
    def from_metadata(cls, found: Any, features: int) -> Normalisation:
        """The inverse of `to_metadata`. Raises `ValueError` unless it fits `features`."""
        if not isinstance(found, Mapping) or not {"scale", "shift"} <= set(found):
            raise ValueError(f"is {short_repr(found)}, not the numbers scale and shift")
        made = [_factor(name, found[name], features) for name in ("scale", "shift")]
        return cls(*made)

    def to_metadata(self) -> dict[str, Any]:
        """`scale` and `shift` as numbers or lists, for the metadata of a saved network."""
        return {"scale": _plain(self.scale), "shift": _plain(self.shift)}

    @property
    def by_feature(self) -> bool:
        """Whether each feature has its own scale and shift."""
        return isinstance(self.scale, numpy.ndarray) or isinstance(self.shift, numpy.ndarray)

    def apply(self, x: Samples, dtype: Any = numpy.float32) -> HostArray:
        """`x * scale + shift` on the host as a new array of `dtype`.

        `x`: of any shape; with `by_feature` it ends in `(features,)`.
        """
        out = numpy.array(x, dtype=dtype)
        out *= numpy.asarray(self.scale, out.dtype) if self.by_feature else self.scale
        out += numpy.asarray(self.shift, out.dtype) if self.by_feature else self.shift
        return out

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Normalisation):
            return NotImplemented
        return numpy.array_equal(self.scale, other.scale) and numpy.array_equal(
            self.shift, other.shift
        )

    def __hash__(self) -> int:
        return hash((numpy.asarray(self.scale).tobytes(), numpy.asarray(self.shift).tobytes()))

    def __str__(self) -> str:
        """`0.00392157 + 0`: scale and shift, or a digest of them with `by_feature`."""
        if not self.by_feature:
            return f"{self.scale:g} + {self.shift:g}"
        digest = hashlib.sha256(repr(self.to_metadata()).encode())
        return f"a scale + a shift for each feature ({digest.hexdigest()[:16]})"


def scale_hint(dataset: Dataset) -> str:
    """Advice to standardise, for values that are far from being standardised; else "".

    There is none for pixels, nor for samples that stay in their file, which would have to be read.
    """
    if dataset.x.dtype == numpy.uint8 or isinstance(dataset.x, MappedRows):
        return ""
    with numpy.errstate(over="ignore", invalid="ignore"):
        mean, deviation, is_constant = _moments(dataset.x, dataset.image_shape is None)
    used = numpy.atleast_1d(deviation)[~numpy.atleast_1d(is_constant)]
    largest = max(numpy.abs(mean).max(), deviation.max())
    if largest <= _FAR and (not used.size or used.max() <= _FAR**2 * used.min()):
        return ""
    what = "the features" if dataset.image_shape is None else "the values"
    return (
        f"hint      {what} are far from mean 0 and deviation 1 (they lie between "
        f"{dataset.x.min():g} and {dataset.x.max():g}): --normalise standard helps training"
    )


def _moments(x: Samples, by_feature: bool) -> tuple[HostArray, HostArray, HostArray]:
    """Mean, deviation, and whether all values are equal: for each feature, or for all values."""

    # In blocks of rows: a float64 copy of 60,000 images would take 380 MB.
    def blocks() -> Iterator[HostArray]:
        size = min(_ROWS_AT_ONCE, max(1, _VALUES_AT_ONCE // x.shape[1]))
        return (x[start : start + size] for start in range(0, len(x), size))

    axis = 0 if by_feature else None
    sums, lows, highs = [], [], []
    for block in blocks():
        sums.append(block.sum(axis=axis, dtype=numpy.float64))
        lows.append(block.min(axis=axis))
        highs.append(block.max(axis=axis))
    count = len(x) if by_feature else x.size
    mean = _total(sums) / count
    squares, scratch = [], None
    for block in blocks():
        scratch = numpy.empty(block.shape) if scratch is None else scratch
        deviations = numpy.subtract(block, mean, out=scratch[: len(block)], dtype=numpy.float64)
        squares.append(numpy.square(deviations, out=deviations).sum(axis=axis))
    deviation = numpy.sqrt(_total(squares) / count)
    is_constant = (numpy.min(lows, axis=0) == numpy.max(highs, axis=0)) | (deviation == 0)
    return mean, deviation, numpy.asarray(is_constant)


def _total(parts: list[HostArray]) -> HostArray:
    """The sum of numbers, rounded once, or the sum of arrays."""
    if numpy.ndim(parts[0]) == 0:
        return numpy.array(math.fsum(parts) if numpy.isfinite(parts).all() else numpy.inf)
    total: HostArray = numpy.sum(parts, axis=0)
    return total


def _factor(name: str, value: Any, features: int) -> float | HostArray:
    try:
        # Anything but a number becomes NaN.
        numbers = [as_float(number) for number in value] if numpy.ndim(value) else as_float(value)
        factor = numpy.array(numbers, dtype=numpy.float64)
    except ValueError:  # a ragged list
        factor = numpy.array(numpy.nan)
    if not numpy.isfinite(factor).all() or factor.shape not in ((), (features,)):
        raise ValueError(
            f"has {name} {short_repr(value)}, not a finite number or one for each feature"
        )
    return factor if factor.ndim else float(factor)


def _plain(value: float | HostArray) -> float | list[float]:
    return value.tolist() if isinstance(value, numpy.ndarray) else float(value)
