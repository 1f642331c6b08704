"""Metrics: by hand, against plain NumPy, without transfers until somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy
from cases import place
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import xpnet as xn
from xpnet.backend import Backend, argmax
from xpnet.errors import ConfigError
from xpnet.metrics import (
    Accuracy,
    ConfusionMatrix,
    MeanLoss,
    SparseConfusionMatrix,
    class_scores,
)
from xpnet.network import Sequential


def draw(seed: int, rows: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)


@pytest.mark.parametrize("top", [1, 2, 5])
def test_accuracy_counts_over_batches(
    top: int, backend: Backend, compared: Callable[[str], None]
) -> None:
    metric, hits, samples = Accuracy(backend, top), 0, 0
    for seed, rows in enumerate((40, 7, 40)):
        logits, labels = draw(seed, rows)
        metric.update(place(backend, logits), place(backend, labels))
        order = np.argsort(-logits, axis=1)[:, :top]
        hits += int((order == labels[:, None]).any(axis=1).sum())
        samples += rows
    assert metric.result() == hits / samples
    metric.reset()
    metric.update(place(backend, np.eye(5)), place(backend, np.arange(5)))
    assert metric.result() == 1.0
    compared(f"Accuracy(top={top})")


@pytest.mark.parametrize("top", ["2", 1.5, 0, True, None])
def test_what_is_no_count_of_classes_is_refused(top: Any) -> None:
    with pytest.raises(ConfigError, match=r"^top must be a whole number above 0, found"):
        Accuracy(Backend(), top)
    assert Accuracy(Backend(), np.int64(2)).top == 2  # type: ignore[arg-type]


def test_accuracy_of_equal_logits_takes_the_first(backend: Backend) -> None:
    metric = Accuracy(backend)
    metric.update(place(backend, np.zeros((4, 3))), place(backend, np.array([0, 0, 1, 2])))
    assert metric.result() == 0.5
    with pytest.raises(ConfigError, match="top must be"):
        Accuracy(backend, top=0)


@pytest.mark.parametrize("classes", [2, 3, 10, 33, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_nan_is_the_largest(
    classes: int, dtype: str, backend: Backend, compared: Callable[[str], None]
) -> None:
    """As NumPy's `argmax` has it, with several in a row too, and beside infinity."""
    rng = np.random.default_rng(classes)
    logits = rng.standard_normal((200, classes)).astype(dtype)
    logits[rng.random(logits.shape) < 0.1] = np.inf
    logits[rng.random(logits.shape) < 0.2] = np.nan
    expected = logits.argmax(axis=1)
    first_nan = np.isnan(logits).argmax(axis=1)
    has_nan = np.isnan(logits).any(axis=1)
    assert np.array_equal(expected[has_nan], first_nan[has_nan])
    assert (np.isnan(logits).sum(axis=1) > 1).any()

    given = place(backend, logits, dtype)
    assert np.array_equal(backend.to_host(argmax(given)), expected)
    accuracy, matrix = Accuracy(backend), ConfusionMatrix(backend, classes)
    sparse = SparseConfusionMatrix(backend, classes)
    for labels in (expected, (expected + 1) % classes):
        for metric in (accuracy, matrix, sparse):
            metric.update(given, place(backend, labels))
    assert accuracy.result() == 0.5
    counts = np.zeros((classes, classes), int)
    for labels in (expected, (expected + 1) % classes):
        np.add.at(counts, (labels, expected), 1)
    assert np.array_equal(matrix.result(), counts)
    pairs = sparse.result()
    assert np.array_equal(counts[pairs.true, pairs.predicted], pairs.times)
    assert pairs.times.sum() == counts.sum()
    compared("argmax")


def test_predictions_of_rows_with_nan(backend: Backend) -> None:
    """The class of the first output that is NaN, as on the host."""
    network = Sequential([xn.Linear(2, 4)], backend=backend, seed=1, dtype="float64")
    weights = np.zeros((4, 2))
    weights[1] = weights[3] = 1e308
    network.load_state_dict({"0.weight": weights, "0.bias": np.zeros(4)})
    # 1e308 · 100 is inf, and inf − inf is NaN, in two columns.
    x = np.array([[100.0, -100.0], [1.0, 0.0]])
    with np.errstate(all="ignore"):
        predicted = backend.to_host(network.predict(place(backend, x)))
    assert predicted.tolist() == [1, 1]


def test_mean_loss_weighs_batches_by_their_size(
    backend: Backend, compared: Callable[[str], None]
) -> None:
    metric = MeanLoss(backend)
    for value, samples in ((1.0, 3), (5.0, 1)):
        metric.update(place(backend, np.array([value]), "float32").reshape(()), samples)
    assert metric.result() == 2.0
    metric.reset()
    metric.update(place(backend, np.array([7.0])).reshape(()), 2)
    assert metric.result() == 7.0
    compared("MeanLoss")


def test_mean_loss_adds_in_float64(backend: Backend) -> None:
    metric, loss = MeanLoss(backend), place(backend, np.array([0.1]), "float32").reshape(())
    for _ in range(1000):
        metric.update(loss, 60_000)
    assert metric.result() == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_confusion_counts_true_in_rows(backend: Backend, compared: Callable[[str], None]) -> None:
    matrix = ConfusionMatrix(backend, 5)
    expected = np.zeros((5, 5), int)
    for seed, rows in enumerate((40, 7, 40)):
        logits, labels = draw(seed, rows)
        matrix.update(place(backend, logits), place(backend, labels))
        np.add.at(expected, (labels, logits.argmax(axis=1)), 1)
    assert matrix.result().dtype == np.int64
    assert matrix.result().tolist() == expected.tolist()
    compared("ConfusionMatrix")


def test_class_scores_by_hand() -> None:
    scores = class_scores(np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]]))
    assert (scores[0].precision, scores[0].recall, scores[0].support) == (8 / 9, 0.8, 10)
    assert scores[0].f1 == pytest.approx(2 * (8 / 9) * 0.8 / (8 / 9 + 0.8))
    assert (scores[1].precision, scores[1].recall) == (9 / 11, 0.9)


def test_scores_that_would_be_0_over_0_are_none() -> None:
    # Class 0 is never predicted, class 1 has no sample, class 2 neither.
    first, second, third = class_scores(np.array([[0, 3, 0], [0, 0, 0], [0, 0, 0]]))
    assert (first.precision, first.recall, first.f1, first.support) == (None, 0, 0, 3)
    assert (second.precision, second.recall, second.f1, second.support) == (0, None, 0, 0)
    assert (third.precision, third.recall, third.f1, third.support) == (None, None, None, 0)


def test_class_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    true, predicted = rng.choice([0, 1, 2, 5], 60), rng.choice([0, 1, 3, 5], 60)
    names = list(range(7))
    with np.errstate(invalid="ignore"):
        expected = precision_recall_fscore_support(
            true, predicted, labels=names, zero_division=np.nan
        )
    for score, *wanted in zip(
        class_scores(confusion_matrix(true, predicted, labels=names)), *expected, strict=True
    ):
        found = [np.nan if value is None else value for value in vars(score).values()]
        np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_counting_touches_neither_host_nor_allocator(double: Backend) -> None:
    logits, labels = draw(0, 20)
    z, t = place(double, logits, "float32"), place(double, labels)
    loss = place(double, np.array([0.5]), "float32").reshape(())
    metrics = [Accuracy(double), Accuracy(double, 3), ConfusionMatrix(double, 5)]
    mean = MeanLoss(double)

    def count() -> None:
        for metric in metrics:
            metric.update(z, t)
        mean.update(loss, 20)

    count()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        count()
