"""Labels of any integer dtype mean the same classes as int64's, also where it has fewer numbers.

A `uint8` holds 256 numbers, and nothing in it says that class 256 is not class 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strict_cupy
from cases import place

import xpnet as xn
from xpnet.backend import Backend
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.metrics import Accuracy, ConfusionMatrix
from xpnet.workspace import Workspace

NARROW = [
    ("int8", 128),
    ("int8", 129),
    ("int8", 300),
    ("uint8", 256),
    ("uint8", 257),
    ("uint8", 700),
    ("uint16", 65_537),
    ("int32", 300),
]
cases = pytest.mark.parametrize(("dtype", "classes"), NARROW)


def batch(dtype: str, classes: int, rows: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that lie where the class numbers in `dtype` would wrap to."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, min(classes, np.iinfo(dtype).max + 1), rows)
    labels[:2] = 0, min(classes - 1, np.iinfo(dtype).max)
    return rng.standard_normal((rows, classes)), labels


@cases
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_are_those_of_int64_labels(
    dtype: str, classes: int, smoothing: float, weighted: bool, backend: Backend
) -> None:
    logits, labels = batch(dtype, classes)
    z = place(backend, logits, "float32")
    weights = place(backend, np.arange(1.0, 6.0), "float32") if weighted else None

    def found(kind: str) -> tuple[np.ndarray, np.ndarray]:
        loss = SoftmaxCrossEntropy(smoothing)
        value = loss.forward(z, place(backend, labels, kind), weights)
        return backend.to_host(value).copy(), backend.to_host(loss.backward()).copy()

    for narrow, wide in zip(found(dtype), found("int64"), strict=True):
        assert np.array_equal(narrow, wide)


@cases
@pytest.mark.parametrize("top", [1, 3])
def test_hits_are_those_of_int64_labels(
    dtype: str, classes: int, top: int, backend: Backend
) -> None:
    logits, labels = batch(dtype, classes)
    logits[np.arange(3), labels[:3]] = 9.0  # three hits, as the largest or among the largest
    logits[1, (labels[1] + 1) % classes] = 10.0
    # In a narrow dtype these would be the classes of the labels, and share in their logits.
    bits = 8 * np.dtype(dtype).itemsize
    for row, label in enumerate(labels):
        logits[row, label + 2**bits :: 2**bits] = -40.0

    def found(kind: str) -> float:
        metric = Accuracy(backend, top)
        metric.update(place(backend, logits, "float32"), place(backend, labels, kind))
        return metric.result()

    assert found(dtype) == found("int64") > 0


@pytest.mark.parametrize(("dtype", "classes"), [case for case in NARROW if case[1] <= 700])
def test_confusion_counts_are_those_of_int64_labels(
    dtype: str, classes: int, backend: Backend
) -> None:
    logits, labels = batch(dtype, classes)

    def found(kind: str) -> Any:
        matrix = ConfusionMatrix(backend, classes)
        matrix.update(place(backend, logits, "float32"), place(backend, labels, kind))
        return matrix.result()

    assert np.array_equal(found(dtype), found("int64"))


@pytest.mark.parametrize(("dtype", "classes"), [("int8", 300), ("uint8", 300), ("uint8", 10)])
def test_training_is_that_of_int64_labels(dtype: str, classes: int, backend: Backend) -> None:
    x, labels = np.random.default_rng(0).random((40, 6)), batch(dtype, classes, 40)[1]
    data = x.astype(np.float32)

    def trained(kind: str) -> tuple[np.ndarray, list[Any]]:
        network = xn.Sequential(6, classes, seed=0, backend=backend)
        history = xn.fit(
            network,
            (data, labels.astype(kind)),
            (data, labels.astype(kind)),
            optimizer=xn.SGD(0.5),
            epochs=3,
            batch_size=16,
        )
        return backend.to_host(network.flat_parameters).copy(), history.column("val_loss")

    (values, losses), (wide, expected) = trained(dtype), trained("int64")
    assert np.array_equal(values, wide)
    assert losses == expected


def test_labels_that_hold_all_classes_are_compared_in_their_own_dtype() -> None:
    made = Workspace().classes(np, 256, np.zeros(1, np.uint8))
    assert made.dtype == np.uint8
    assert made.tolist() == list(range(256))


def test_a_step_with_narrow_labels_touches_neither_host_nor_allocator(double: Backend) -> None:
    logits, labels = batch("uint8", 300)
    z, t = place(double, logits, "float32"), place(double, labels, "uint8")
    loss, metric = SoftmaxCrossEntropy(0.1), Accuracy(double, 3)

    def step() -> None:
        loss.forward(z, t)
        loss.backward()
        metric.update(z, t)

    step()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        step()
