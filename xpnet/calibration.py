"""Whether predictions come true as often as they say: computed on the host, for reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from xpnet.backend import HostArray


@dataclass(frozen=True)
class Calibration:
    """How often predictions come true, beside how sure they were; see `calibration`.

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
    confidence = probabilities.max(axis=1).astype(numpy.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(numpy.float64)
    ends = numpy.arange(1, bins + 1) / bins
    # Rounding may leave a confidence a little above 1.
    place = numpy.minimum(numpy.searchsorted(ends, confidence, side="left"), bins - 1)
    counts = numpy.bincount(place, minlength=bins)
    hits = numpy.bincount(place, weights=right, minlength=bins)
    sure = numpy.bincount(place, weights=confidence, minlength=bins)
    some = numpy.maximum(counts, 1)
    error = float(numpy.abs(hits - sure).sum() / len(labels))
    return Calibration(counts, hits / some, sure / some, error)
