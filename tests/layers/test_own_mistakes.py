"""Mistakes in layers, losses, optimizers and schedules of a user's own are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

import xpnet as xn
from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError, ShapeError, XpnetError
from xpnet.gradcheck import check_network

X = np.random.default_rng(0).standard_normal((40, 6))
LABELS = np.arange(40) % 3
TARGETS = X[:, :3]


class Maxout(xn.Layer):
    """The larger of each two neighbours, without `output_shape()`."""

    def forward(self, x: Array, *, training: bool) -> Array:
        self.is_left = x[:, ::2] > x[:, 1::2]
        return array_module(x).maximum(x[:, ::2], x[:, 1::2])

    def backward(self, dy: Array) -> Array:
        parts = [dy * self.is_left, dy * ~self.is_left]
        return array_module(dy).stack(parts, axis=2).reshape(len(dy), -1)


class Halves(Maxout):
    """As it should be."""

    def output_shape(self, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if shape is None else (shape[0] // 2,)


class Noise(xn.Layer):
    """Draws other numbers in each pass."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def forward(self, x: Array, *, training: bool) -> Array:
        return x + self.generator.standard_normal(x.shape).astype(x.dtype) if training else x

    def backward(self, dy: Array) -> Array:
        return dy


class NoiseFromACounter(Noise):
    """Draws the same numbers for the same samples."""

    def set_sample_counter(self, samples: int) -> None:
        self.generator = np.random.default_rng(samples)


def checked(layer: xn.Layer) -> dict[str, float]:
    made = xn.Sequential(6, 8, layer, 3, dtype="float64")
    return check_network(made, xn.SoftmaxCrossEntropy(), X[:5].copy(), LABELS[:5])


def train(network: xn.Sequential, loss: xn.Loss | None = None, **options: Any) -> None:
    options = {"optimizer": "sgd", "epochs": 1, "batch_size": 10} | options
    xn.fit(network, (X, LABELS if loss is None else TARGETS), loss=loss, **options)


def test_a_layer_that_does_not_say_that_it_changes_the_shape() -> None:
    with pytest.raises(
        ShapeError,
        match=r"^layer 2: Linear\(4, 3\) takes 4 features and is given 8: .* the layer before it, "
        r"or define output_shape\(\) of Maxout$",
    ):
        xn.Sequential(6, 8, Maxout(), xn.Linear(4, 3))
    with pytest.raises(
        ShapeError,
        match=r"^layer 1: Maxout turns samples of shape \(8,\) into \(4,\), and its "
        r"output_shape\(\) gives \(8,\): ",
    ):
        train(xn.Sequential(6, 8, Maxout(), 3))
    made = xn.Sequential(6, 8, Halves(), 3)
    assert made.layers[2].get_config()["in_features"] == 4
    train(made)


@pytest.mark.parametrize("before", [xn.ReLU(), Halves()])
def test_no_such_hint_after_a_layer_that_says_it(before: xn.Layer) -> None:
    with pytest.raises(ShapeError, match=r"or change the layer before it$"):
        xn.Sequential(6, 8, before, xn.Linear(5, 3))


def test_a_layer_with_other_random_numbers_in_each_pass() -> None:
    with pytest.raises(ConfigError, match=r"^two forward passes .* in set_sample_counter\(\)$"):
        checked(Noise())
    assert max(checked(NoiseFromACounter()).values()) < 1e-7
    assert max(checked(Halves()).values()) < 1e-7


def test_parameters_that_are_arrays() -> None:
    class OfArrays(NoiseFromACounter):
        def parameters(self) -> dict[str, Any]:
            return {"gain": np.ones(8)}

    with pytest.raises(ConfigError, match=r"^parameters\(\) of OfArrays must give .* for 1\.gain$"):
        xn.Sequential(6, 8, OfArrays(), 3)


class Squares(xn.Loss):
    """A mean over all numbers, which NumPy returns as a scalar and not as an array."""

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Any:
        self.rest = logits - target
        return (self.rest**2).mean()

    def backward(self, scale: float = 1.0) -> Array:
        return 2 * scale * self.rest / self.rest.size


class OnePerSample(Squares):
    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Any:
        super().forward(logits, target)
        return (self.rest**2).mean(axis=1)


def test_a_loss_of_numpys_numbers_is_called() -> None:
    assert Squares()(TARGETS, np.zeros((40, 3))) == pytest.approx(np.square(TARGETS).mean())


@pytest.mark.parametrize(
    "use",
    [
        lambda: OnePerSample()(TARGETS, np.zeros((40, 3))),
        lambda: train(xn.Sequential(6, 3), OnePerSample()),
        lambda: xn.TrainStep(xn.Sequential(6, 3), OnePerSample(), "sgd")(X, TARGETS),
        lambda: check_network(
            xn.Sequential(6, 3, dtype="float64"), OnePerSample(), X.copy(), TARGETS
        ),
    ],
)
def test_a_loss_that_is_no_mean(use: Callable[[], object]) -> None:
    with pytest.raises(
        ShapeError, match=r"^OnePerSample\.forward\(\) .* found shape \((40|10),\)$"
    ):
        use()


def test_a_prediction_that_there_is_not() -> None:
    class Wrong(Squares):
        prediction: ClassVar[str | None] = "value"

    with pytest.raises(ConfigError, match=r"^prediction of Wrong must be one of class, .*'value'$"):
        train(xn.Sequential(6, 3), Wrong())


class Descent(xn.Optimizer):
    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        values -= scalars[0] * gradients


class WithoutSuper(Descent):
    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate  # type: ignore[assignment]


class OtherName(xn.Optimizer):
    state_names = ("mean",)

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        self.state["square"] += gradients


class OneName(Descent):
    state_names = "mean"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WithoutSuper, r"^WithoutSuper\.__init__\(\) does not call super\(\)\.__init__\("),
        (OtherName, r"^OtherName has no state 'square': its state_names is \('mean',\)"),
        (OneName, r"^state_names of OneName must be a tuple of names, such as \('mean',\), found"),
    ],
)
def test_an_optimizer_that_is_not_complete(kind: type[xn.Optimizer], words: str) -> None:
    with pytest.raises(XpnetError, match=words):
        train(xn.Sequential(6, 3), optimizer=kind(0.1))


def test_a_schedule_without_a_rate() -> None:
    class Mine(xn.schedules.Schedule):
        def rate(self, step: int) -> float:
            return 0.1

    with pytest.raises(TypeError, match=r"^Mine defines no __call__\(step\)"):
        train(xn.Sequential(6, 3), optimizer=xn.SGD(Mine()))
