"""Predictions of one network from many threads, and in the midst of a training step."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
import pytest
from cases import place

import xpnet as xn
from xpnet.accel import dispatch
from xpnet.backend import Array, Backend, array_module
from xpnet.layers.base import Layer

THREADS = 8


class Block(Layer):
    """`y = tanh(x) + x`, of a layer within it and with an attribute that the pass writes."""

    def __init__(self) -> None:
        self.inner = [xn.Tanh(), xn.LayerNorm(24)]

    def forward(self, x: Array, *, training: bool) -> Array:
        self.kept = x
        for layer in self.inner:
            x = layer.forward(x, training=training)
        return array_module(x).add(x, self.kept, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        dx = dy
        for layer in reversed(self.inner):
            dx = layer.backward(dx)
        return array_module(dx).add(dx, dy, out=self.like(dy, "dx"))


def everything(backend: Backend | str = "cpu") -> xn.Sequential:
    """All layers there are, with statistics that a training pass has moved."""
    made = [xn.Linear(12, 24), Block()]
    for case in cases.ROW_LAYERS:
        layer = case.make()
        if hasattr(layer, "features"):
            layer = type(layer)(24)
        if isinstance(layer, xn.Residual):
            layer = xn.Residual(24, 8, "tanh", xn.Sequential(8, 24))
        made.append(xn.Linear(24, 24) if isinstance(layer, xn.Linear) else layer)
    made.append(xn.Unflatten((2, 3, 4)))
    made += [xn.Conv2d(6, 3, padding=1, groups=2), xn.BatchNorm2d(6), xn.Dropout2d(0.2)]
    made += [xn.MaxPool2d(3, 1, 1), xn.AveragePool2d(1), xn.Residual(xn.Conv2d(6, 1))]
    made += [xn.GaussianNoise(0.1), xn.Flatten(), xn.Unflatten((2, 3, 6))]
    made += [xn.GlobalAveragePool2d(), xn.Linear(6, 7)]
    network = xn.Sequential(made, backend=backend, seed=3)
    rows = np.random.default_rng(0).standard_normal((40, 12))
    network.forward(place(network.backend, rows, "float32"), training=True)
    return network


def at_once(call: Callable[[int], Any], count: int, backend: Backend) -> list[Any]:
    """`call(0)` to `call(count - 1)`, by threads that all begin at the same moment."""
    ready = threading.Barrier(THREADS)

    def part(number: int) -> list[tuple[int, Any]]:
        ready.wait()
        with dispatch.use_kernels():
            return [(place, call(place)) for place in range(number, count, THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(pair for pairs in pool.map(part, range(THREADS)) for pair in pairs)
    return [found[number] for number in range(count)]


@pytest.mark.parametrize("predictions", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_each_of_8_threads_predicts_as_one_alone(predictions: int, backend: Backend) -> None:
    """Bit for bit, whole batches and single rows."""
    network = everything(backend)
    # The double counts and checks every call, which takes its time.
    count = THREADS * predictions if backend.xp is np else 20 * THREADS
    rows = np.random.default_rng(1).standard_normal((count + 40, 12))
    x = place(backend, rows, "float32")

    def predicted(number: int) -> bytes:
        size = 1 if number % 4 else 1 + number % 37
        asked = network.predict if number % 3 == 0 else network.predict_proba
        return backend.to_host(asked(x[number : number + size])).tobytes()

    alone = [predicted(number) for number in range(count)]
    assert at_once(predicted, count, backend) == alone


def test_large_batches_are_cut_in_each_thread_by_itself(backend: Backend) -> None:
    network = everything(backend)
    x = place(backend, np.random.default_rng(1).standard_normal((2000, 12)), "float32")

    def predicted(number: int) -> bytes:
        return backend.to_host(network.forward(x[number:])).tobytes()

    alone = [predicted(number) for number in range(THREADS)]
    assert at_once(predicted, THREADS, backend) == alone


@pytest.mark.parametrize("training", ["a forward and a backward pass", "fit"])
def test_a_prediction_leaves_a_training_step_as_it_is(training: str, backend: Backend) -> None:
    class Predict(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            run.network.predict(np_or_device)

    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((30, 12)), rng.integers(0, 7, 30)
    np_or_device = place(backend, rng.standard_normal((50, 12)), "float32")

    def trained(predict: bool) -> bytes:
        network = everything(backend)
        if training == "fit":
            callbacks = [Predict()] if predict else []
            options = {"epochs": 3, "batch_size": 10, "callbacks": callbacks}
            data = xn.DeviceData(x, labels, backend=backend, dtype="float32")
            xn.fit(network, data, optimizer=xn.SGD(0.1), **options)
            return backend.to_host(network.flat_parameters).tobytes()
        loss = xn.SoftmaxCrossEntropy()
        loss.forward(
            network.forward(place(backend, x, "float32"), training=True), backend.asarray(labels)
        )
        if predict:
            network.predict(np_or_device)
        network.backward(loss.backward())
        return backend.to_host(network.flat_gradients).tobytes()

    assert trained(predict=True) == trained(predict=False)


def test_what_is_changed_between_two_predictions_takes_effect() -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    slopes = [xn.LeakyReLU(0.1), xn.LeakyReLU(0.1)]
    network = xn.Sequential([xn.Linear(4, 6), slopes[0], xn.Linear(6, 2)])
    other = xn.Sequential([xn.Linear(4, 6), slopes[1], xn.Linear(6, 2)])
    first = network.forward(x)
    slopes[0].slope = slopes[1].slope = 0.7
    network.flat_parameters *= 2
    other.flat_parameters *= 2
    assert not np.array_equal(network.forward(x), first)
    assert np.array_equal(network.forward(x), other.forward(x))
    network.load_state_dict({name: -value for name, value in other.state_dict().items()})
    other.flat_parameters *= -1
    assert np.array_equal(network.forward(x), other.forward(x))


@dataclass(eq=False)
class Remembers(Layer):
    """A layer of a user's own, whose attribute training replaces."""

    scale: float = 1.0

    def forward(self, x: Array, *, training: bool) -> Array:
        if training:
            self.scale = float(x.max())
        return x * self.scale

    def backward(self, dy: Array) -> Array:
        return dy * self.scale


def test_what_a_layer_of_ones_own_learns_is_predicted_with() -> None:
    network = xn.Sequential([xn.Linear(3, 2), Remembers()])
    x = np.ones((2, 3), "float32")
    before = network.forward(x)
    network.forward(x, training=True)
    assert network.layers[1].scale != 1
    assert np.array_equal(network.forward(x), before * np.float32(network.layers[1].scale))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_predicts_the_same_and_by_itself(copied: Callable[[Any], Any]) -> None:
    network = xn.Sequential(4, 5, "relu", xn.BatchNorm(5), 3, seed=8)
    network.prediction, network.target_shape, network.metadata = "class", (), {"a": [1]}
    x = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")
    network.layers[0].trainable = False
    network.forward(x, training=True)
    other = copied(network)
    assert np.array_equal(network.forward(x), other.forward(x))
    assert (other.prediction, other.target_shape, other.seed) == ("class", (), 8)
    assert other.metadata == {"a": [1]}
    assert [layer.trainable for layer in other] == [False, True, True, True]
    other.flat_parameters *= 2
    assert not np.array_equal(network.forward(x), other.forward(x))


def test_what_a_layer_appends_to_stays_its_own() -> None:
    class Watches(Layer):
        def __init__(self) -> None:
            self.seen: list[Any] = []
            self.parts = [[xn.Tanh()], "a text"]

        def forward(self, x: Array, *, training: bool) -> Array:
            self.seen.append(len(x))
            return self.parts[0][0].forward(x, training=training)  # type: ignore[union-attr]

    network = xn.Sequential([xn.Linear(3, 2), Watches()])
    network.forward(np.ones((2, 3), "float32"))
    network.forward(np.ones((5, 3), "float32"))
    assert network.layers[1].seen == [2, 5]  # type: ignore[attr-defined]
