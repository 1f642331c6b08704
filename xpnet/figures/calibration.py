"""The calibration of predictions: their confidence compared with their accuracy, on the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy

from xpnet.backend import HostArray


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a classifier for `N` labelled samples: `(N,)` each, on the host.

    `classes`: the most likely class, int64; `confidence`: its probability; `of_true`: the
    probability of the sample's own class. A report needs no more of the
    `(N, C)` probabilities, which for many classes do not fit in memory.
    """

    classes: HostArray
    confidence: HostArray
    of_true: HostArray

    @classmethod
    def of(cls, probabilities: HostArray, labels: HostArray) -> Predictions:
        """Of `probabilities` `(N, C)` and `labels` `(N,)`, both on the host."""
        rows = numpy.arange(len(labels))
        return cls(
            probabilities.argmax(axis=1), probabilities.max(axis=1), probabilities[rows, labels]
        )

    @classmethod
    def joined(cls, parts: Iterable[Predictions]) -> Predictions:
        """The predictions of all `parts`, in order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(numpy.concatenate(column) for column in columns))

    def table(self, rows: HostArray, labels: HostArray, classes: int) -> HostArray:
        """Probabilities `(n, classes)` of samples `rows`; 0 but for predicted and true class.

        `labels`: `(N,)`, of all samples.
        """
        table = numpy.zeros((len(rows), classes), self.confidence.dtype)
        place = numpy.arange(len(rows))
        table[place, labels[rows]] = self.of_true[rows]
        table[place, self.classes[rows]] = self.confidence[rows]
        return table


@dataclass(frozen=True)
class Calibration:
    """The accuracy and the mean confidence of predictions, in bins; see `calibration`.

    `counts`, `accuracy`, `confidence`: `(M,)`, of the samples in each bin; 0 where there is none.
    `error`: the expected calibration error, a fraction.
    """

    counts: HostArray
    accuracy: HostArray
    confidence: HostArray
    error: float


def calibration(probabilities: HostArray, labels: HostArray, bins: int = 15) -> Calibration:
    """The reliability of `probabilities` `(N, C)` for `labels` `(N,)`, both on the host, N above 0.

    A sample's confidence is its largest probability. Bin m of M holds the samples whose confidence
    lies in ((m-1)/M, m/M]; acc(m) is the share of them that are right, conf(m) their mean
    confidence, and the expected calibration error is

        ECE = Σ_m |B_m| / N · |acc(m) - conf(m)|

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017),
    section 2; 15 bins, as in its experiments.
    """
    return reliability(Predictions.of(probabilities, labels), labels, bins)


def reliability(predictions: Predictions, labels: HostArray, bins: int = 15) -> Calibration:
    """`calibration` for predictions without the probabilities of all classes."""
    confidence = predictions.confidence.astype(numpy.float64)
    right = (predictions.classes == labels).astype(numpy.float64)
    ends = numpy.arange(1, bins + 1) / bins
    # Rounding may leave a confidence a little above 1.
    place = numpy.minimum(numpy.searchsorted(ends, confidence, side="left"), bins - 1)
    counts = numpy.bincount(place, minlength=bins)
    hits = numpy.bincount(place, weights=right, minlength=bins)
    sure = numpy.bincount(place, weights=confidence, minlength=bins)
    some = numpy.maximum(counts, 1)
    error = float(numpy.abs(hits - sure).sum() / len(labels))
    return Calibration(counts, hits / some, sure / some, error)
