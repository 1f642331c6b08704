"""Tens of thousands of classes: an evaluation takes memory for the samples, not for C² pairs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import place
from html_tree import part, tree, words
from report_cases import FACTS

import xpnet as xn
from xpnet.backend import Backend
from xpnet.config import TrainConfig
from xpnet.data import Dataset, Normalisation
from xpnet.figures.calibration import Predictions, calibration, reliability
from xpnet.figures.plots import choose_predictions, choose_samples
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.metrics import (
    MOST_CLASSES,
    ClassCounts,
    ConfusedPairs,
    ConfusionMatrix,
    SparseConfusionMatrix,
    class_scores,
)
from xpnet.report.confusion import worst_pairs
from xpnet.report.files import draw
from xpnet.report.html import run_page
from xpnet.runs.summary import collect_metrics, describe_test
from xpnet.runs.test_set import PredictedTestSet, predict_test_set
from xpnet.training import Evaluation, evaluate, microbatch
from xpnet.training.history import History, Record


def both(backend: Backend, classes: int = 7) -> tuple[np.ndarray, ConfusedPairs]:
    """The counts of the same three batches as a matrix and as pairs."""
    dense, sparse = ConfusionMatrix(backend, classes), SparseConfusionMatrix(backend, classes)
    for seed, rows in enumerate((40, 7, 40)):
        rng = np.random.default_rng(seed)
        z = place(backend, rng.standard_normal((rows, classes)), "float32")
        t = place(backend, rng.integers(0, classes - 1, rows), "uint8")
        dense.update(z, t)
        sparse.update(z, t)
    return dense.result(), sparse.result()


def test_the_pairs_are_what_is_not_0_in_the_matrix(backend: Backend) -> None:
    matrix, pairs = both(backend)
    true, predicted = np.nonzero(matrix)
    assert pairs.classes == 7
    assert pairs.true.tolist() == true.tolist()
    assert pairs.predicted.tolist() == predicted.tolist()
    assert pairs.times.tolist() == matrix[true, predicted].tolist()
    assert {part.dtype for part in (pairs.true, pairs.predicted, pairs.times)} == {np.dtype("i8")}


def test_pairs_of_65536_classes_do_not_wrap(reference: Backend) -> None:
    counted = SparseConfusionMatrix(reference, 65_536)
    logits = np.zeros((2, 65_536), np.float32)
    logits[:, 65_535] = 1
    counted.update(logits, np.array([65_534, 65_535], np.uint16))
    pairs = counted.result()
    assert pairs.true.tolist() == [65_534, 65_535]
    assert pairs.predicted.tolist() == [65_535, 65_535]


def test_scores_and_worst_pairs_are_those_of_the_matrix(reference: Backend) -> None:
    matrix, pairs = both(reference)
    assert class_scores(pairs) == class_scores(matrix)
    assert worst_pairs(pairs, 50) == worst_pairs(matrix, 50)
    assert len(worst_pairs(matrix, 3)) == 3
    for one, other in zip(
        vars(ClassCounts.of(pairs)).values(), vars(ClassCounts.of(matrix)).values(), strict=True
    ):
        assert one.tolist() == other.tolist()


def test_predictions_are_all_that_a_report_needs_of_the_probabilities() -> None:
    rng = np.random.default_rng(5)
    p = rng.random((60, 5)).astype(np.float32)
    p /= p.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 5, 60)
    parts = [Predictions.of(p[rows], labels[rows]) for rows in (slice(0, 25), slice(25, 60))]
    found = Predictions.joined(parts)
    assert reliability(found, labels).error == calibration(p, labels).error
    chosen = choose_samples(p, labels, 25, 3)
    assert choose_predictions(found, labels, 25, 3).tolist() == chosen.tolist()
    table, place = found.table(chosen, labels, 5), np.arange(len(chosen))
    assert table.dtype == p.dtype
    assert table.argmax(axis=1).tolist() == p[chosen].argmax(axis=1).tolist()
    assert np.array_equal(table.max(axis=1), p[chosen].max(axis=1))
    assert np.array_equal(table[place, labels[chosen]], p[chosen, labels[chosen]])


def peak(call: object) -> int:
    """The most bytes that NumPy and Python held at once during the call, beyond those before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_evaluating_10000_classes_takes_memory_for_the_samples() -> None:
    network = xn.Sequential(4, 10_000, seed=0)
    x, labels = np.random.default_rng(0).random((50, 4), np.float32), np.arange(50) * 200
    # A matrix of all pairs alone would take 800 MB.
    assert peak(lambda: evaluate(network, (x, labels))) < 20_000_000
    found = evaluate(network, (x, labels))
    guesses = network.forward(x).argmax(axis=1)
    assert isinstance(found.confusion, ConfusedPairs)
    assert found.accuracy == (guesses == labels).mean()
    loss = SoftmaxCrossEntropy().forward(network.forward(x), labels)
    assert found.loss == pytest.approx(float(loss), rel=1e-6)


def test_of_many_classes_fewer_rows_are_evaluated_at_a_time() -> None:
    network = xn.Sequential(2, 65_536, seed=0)
    x = np.random.default_rng(0).random((600, 2), np.float32)
    labels = np.arange(600) + 60_000
    whole = 600 * 65_536 * 4  # the logits of all
    assert peak(lambda: evaluate(network, (x, labels))) < whole

    def rows(outputs: int) -> int:
        network: Any = SimpleNamespace(out_features=outputs, prediction_rows=768)
        return microbatch.prediction_rows(network)

    assert rows(10) == rows(1024) == 768
    assert rows(65_536) * 65_536 <= 2**22
    assert rows(2**30) == 1


def test_up_to_1024_classes_every_pair_is_counted() -> None:
    x = np.zeros((1, 2), np.float32)
    at_limit = evaluate(xn.Sequential(2, MOST_CLASSES, seed=0), (x, np.zeros(1, int)))
    assert at_limit.confusion.shape == (1024, 1024)
    beyond = evaluate(xn.Sequential(2, MOST_CLASSES + 1, seed=0), (x, np.zeros(1, int)))
    assert isinstance(beyond.confusion, ConfusedPairs)


CLASSES = 1500


def answers_of_many() -> tuple[xn.Sequential, PredictedTestSet]:
    network = xn.Sequential(4, CLASSES, seed=0)
    rng = np.random.default_rng(1)
    x, labels = rng.integers(0, 256, (40, 4)).astype(np.uint8), np.arange(40) * 37
    data = Dataset(x, labels, tuple(map(str, range(CLASSES))), (2, 2))
    scale = Normalisation(1 / 255, 0.0)
    tested = evaluate(network, (scale.apply(x), labels))
    return network, predict_test_set(network, tested, data, scale)


def test_the_report_of_many_classes_has_no_table_of_their_pairs(tmp_path: Path) -> None:
    network, answers = answers_of_many()
    history = History([Record(1, 1, 0.1, 0.2, 0.9, None, None, 1.0)])
    metrics = collect_metrics({}, history, history.records[-1], answers)
    assert metrics["confusion"] is None
    assert len(metrics["classes"]) == CLASSES
    assert metrics["classes"]["1"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    json.dumps(metrics, allow_nan=False)
    lines = describe_test(answers.tested, answers.data.classes).splitlines()
    assert lines[1:] == ["1,500 classes: the scores of each are in metrics.json"]
    about = {**FACTS, **metrics}
    root = tree(run_page(tmp_path, TrainConfig(), history, about, network, answers))
    matrix = part(root, "Confusion")
    assert "of 40 test samples were classified correctly" in words(matrix)
    assert "1,500 classes is too large" in words(matrix)
    assert not list(matrix.iter("table"))
    assert "predicted as" in words(part(root, "Most confused"))
    assert "more classes are not shown" in words(part(root, "Each class"))
    draw(tmp_path, network, history, answers, answers.data, None)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"training_metrics.png", "sample_predictions.png", "weights.png"}


def test_what_is_not_defined_is_a_dash() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 0]])
    tested = Evaluation(0.5, 0.5, counts)
    lines = describe_test(tested, ("cat", "dog", "cow")).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["cat", "100.00", "%", "75.0", "%", "0.8571", "4"],
        ["dog", "0.00", "%", "–", "0.0000", "0"],
        ["cow", "–", "0.0", "%", "0.0000", "2"],
    ]
    assert len({len(line) for line in lines[2:]}) == 1
