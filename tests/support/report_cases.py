"""Made-up histories and predictions for reports."""

from __future__ import annotations

import math

import numpy

from xpnet.data.dataset import Dataset
from xpnet.figures.calibration import Predictions
from xpnet.runs.test_set import PredictedTestSet
from xpnet.training import Evaluation
from xpnet.training.history import History, Record

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&amp;b", "]]>'$title")


FACTS = {
    "parameters": 1234,
    "samples": {"train": 110, "validation": 20, "test": 60},
    "dataset": {"name": "made <up>", "sha256": "ab" * 32},
    "seed": 3,
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "versions": {"python": "3.11.2", "platform": "Linux", "xpnet": "0.1.0"},
}


def history_of(epochs=4, steps=11, **changes):
    records = [
        Record(n, n * steps, 0.01 / n, 1 / n, 1 - 0.5 / n, 1.2 / n + 0.1 * n, 0.9 - 0.1 / n, 2.0)
        for n in range(1, epochs + 1)
    ]
    return History([Record(**(vars(item) | changes)) for item in records])


def answers_of(classes=10, samples=60, image_shape=(4, 4), names=None, wrong=0.3, seed=0):
    """Predictions of a made-up network, of which a share of `wrong` is wrong."""
    draw = numpy.random.default_rng(seed)
    names = names or tuple(map(str, range(classes)))
    labels = numpy.arange(samples) % classes
    guesses = numpy.where(draw.random(samples) < wrong, (labels + 1) % classes, labels)
    p = draw.random((samples, classes)).astype(numpy.float32) * 0.5
    p[numpy.arange(samples), guesses] = 1 + draw.random(samples)
    p /= p.sum(axis=1, keepdims=True)
    confusion = numpy.zeros((classes, classes), numpy.int64)
    numpy.add.at(confusion, (labels, guesses), 1)
    features = math.prod(image_shape) if image_shape else 5
    x = draw.integers(0, 256, (samples, features)).astype(numpy.uint8)
    tested = Evaluation(0.5, float(confusion.trace() / samples), confusion)
    return PredictedTestSet(
        tested, Predictions.of(p, labels), Dataset(x, labels, names, image_shape)
    )
