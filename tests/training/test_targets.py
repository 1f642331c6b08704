"""`Loss.require_targets`: targets that a loss cannot be computed for are named on the host."""

from __future__ import annotations

import numpy as np
import pytest

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import DataError, ShapeError
from xpnet.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SigmoidBinaryCrossEntropy,
    SoftmaxCrossEntropy,
)


@pytest.mark.parametrize(
    ("loss", "target", "outputs"),
    [
        (SoftmaxCrossEntropy(), np.array([0, 2, 1]), 3),
        (SoftmaxCrossEntropy(0.1), np.array([0, 255], np.uint8), 1000),
        (SigmoidBinaryCrossEntropy(), np.array([[0.0, 1.0], [0.5, 0.25]]), 2),
        (SigmoidBinaryCrossEntropy(), np.array([0, 1, 1]), 1),
        (SigmoidBinaryCrossEntropy(), np.array([[False], [True]]), 1),
        (MeanSquaredError(), np.array([[-1e300], [7.0]]), 1),
        (MeanSquaredError(), np.array([3, 5]), 1),
        (MeanAbsoluteError(), np.array([3, 5]), 1),
        (Huber(), np.array([[3.0, -5.0]]), 2),
        (Poisson(), np.array([0, 5]), 1),
        (Poisson(), np.array([[0.0, 2.5]]), 2),
        (Quantile(), np.array([[3.0, -5.0]]), 2),
        (Quantile((0.1, 0.9)), np.array([3.0, 5.0]), 2),
        (Quantile((0.1, 0.9)), np.array([[3.0], [5.0]]), 2),
        (Loss(), np.array([["anything"]]), 7),
    ],
)
def test_targets_that_fit_pass(loss: Loss, target: np.ndarray, outputs: int) -> None:
    loss.require_targets(target, outputs, "train")


@pytest.mark.parametrize(
    ("loss", "target", "outputs", "error", "words"),
    [
        (
            SoftmaxCrossEntropy(),
            np.array([0, 2, 3, -1]),
            3,
            DataError,
            r"^train has labels -1 to 3, the network gives 3 classes, 0 to 2: label 3 is in row 2$",
        ),
        (
            SoftmaxCrossEntropy(),
            np.array([0, 200, 255], np.uint8),
            200,
            DataError,
            "label 200 is in row 1",
        ),
        (SoftmaxCrossEntropy(), np.zeros(3), 3, ShapeError, "must be integers, found dtype float"),
        (SoftmaxCrossEntropy(), np.eye(3, dtype=int), 3, ShapeError, r"\(3, 3\).*argmax\(axis=1\)"),
        (
            SigmoidBinaryCrossEntropy(),
            np.array([[0.0, 1.0], [0.5, 1.5]]),
            2,
            DataError,
            r"^train has the target 1.5 in row 1, column 1, and Sigmoid.* takes numbers from 0",
        ),
        (
            SigmoidBinaryCrossEntropy(),
            np.array([0, 1, -1]),
            1,
            DataError,
            "-1 in row 2, and",
        ),
        (SigmoidBinaryCrossEntropy(), np.array([0.0, np.nan]), 1, DataError, "nan in row 1, and"),
        (SigmoidBinaryCrossEntropy(), np.zeros(3), 2, ShapeError, r"\(3,\).*\(N, 2\)"),
        (MeanSquaredError(), np.array([[1.0], [np.inf]]), 1, DataError, "inf in row 1, column 0"),
        (MeanAbsoluteError(), np.array([np.nan]), 1, DataError, "nan in row 0, and Mean.*finite"),
        (MeanAbsoluteError(), np.zeros((3, 2)), 1, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (Huber(), np.array([-np.inf]), 1, DataError, "-inf in row 0, and Huber.*finite numbers"),
        (Huber(), np.zeros((3, 2)), 1, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (
            Poisson(),
            np.array([[0.0, 3.0], [1.0, -2.0]]),
            2,
            DataError,
            "-2 in row 1, column 1, and Poisson takes finite numbers of 0 or more$",
        ),
        (Poisson(), np.array([np.inf]), 1, DataError, "inf in row 0, and Poisson takes finite"),
        (Poisson(), np.zeros((3, 2)), 1, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (Quantile(), np.array([np.nan]), 1, DataError, "nan in row 0, and Quantile takes finite"),
        (Quantile(), np.zeros((3, 2)), 1, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (Quantile((0.1, 0.9)), np.zeros((3, 2)), 2, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (Quantile((0.1, 0.9)), np.zeros(3), 3, ShapeError, "2 quantiles and the network 3 outputs"),
        (MeanSquaredError(), np.zeros((3, 2)), 1, ShapeError, r"\(3, 2\).*\(N, 1\)"),
        (MeanSquaredError(), np.array([["1"]]), 1, ShapeError, "takes numbers"),
        (MeanSquaredError(), np.array([[1j]]), 1, ShapeError, "complex128.*takes numbers"),
    ],
)
def test_others_are_named(
    loss: Loss, target: np.ndarray, outputs: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        loss.require_targets(target, outputs, "train")
    assert "\n" not in str(caught.value)


class Hinge(Loss):
    """A loss of a user's own, which takes -1 and 1 alone."""

    def require_targets(self, target: np.ndarray, outputs: int, name: str) -> None:
        if not np.isin(target, (-1, 1)).all():
            raise DataError(f"{name} holds other targets than -1 and 1")


def test_fit_asks_the_loss_before_training() -> None:
    network = xn.Sequential(3, 1, seed=0)
    before = network.flat_parameters.copy()
    x, y = np.ones((4, 3), np.float32), np.array([[1.0], [-1.0], [1.0], [0.5]])
    with pytest.raises(DataError, match="train holds other targets than -1 and 1"):
        xn.fit(network, (x, y), optimizer=xn.SGD(0.1), loss=Hinge(), epochs=1)
    with pytest.raises(DataError, match="validation holds other targets than -1 and 1"):
        xn.fit(network, (x, np.sign(y)), (x, y), optimizer=xn.SGD(0.1), loss=Hinge(), epochs=1)
    with pytest.raises(DataError, match=r"train has the target -1 in row 1, column 0"):
        xn.fit(
            network,
            (x, np.sign(y)),
            optimizer=xn.SGD(0.1),
            loss=xn.SigmoidBinaryCrossEntropy(),
            epochs=1,
        )
    assert np.array_equal(network.flat_parameters, before)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_on_a_device_are_checked_too(backend: Backend, label: int) -> None:
    """A kernel would read beyond the logits, and say nothing."""
    network = xn.Sequential(4, 3, backend=backend, seed=0)
    x, y = np.zeros((6, 4), "float32"), np.array([0, 1, 2, 0, label, 1])
    given = backend.asarray(x), backend.asarray(y)
    with pytest.raises(DataError, match=rf"label {label} is in row 4"):
        xn.fit(network, given, optimizer=xn.SGD(), epochs=1)
    with pytest.raises(DataError, match=rf"label {label} is in row 4"):
        xn.TrainStep(network, "cross_entropy", xn.SGD())(*given)
