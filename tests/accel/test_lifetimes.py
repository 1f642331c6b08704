"""What a training takes is given back with it, without the help of Python's garbage collector.

On a GPU that is memory of the device: `fit()` in a loop would fill it before the collector, which
sees small Python objects only, is run. On the double and, with `--device cuda`, on CuPy.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cupy
import numpy as np
import pytest
import strict_cupy
from test_cuda_graph import plain

import xpnet as xn
from xpnet.accel.cublas import PRECISIONS, Products
from xpnet.accel.cuda_graph import Graphs, _GraphStream
from xpnet.accel.recording import Replay
from xpnet.backend import Backend
from xpnet.errors import BackendUnavailable, DivergenceError, OutOfDeviceMemory
from xpnet.estimator import XpnetClassifier
from xpnet.network import Sequential
from xpnet.training.update import Update

WATCHED = (Sequential, xn.DeviceData, Update, Replay, Graphs, _GraphStream, Products, xn.TrainStep)
DATA = np.linspace(0, 1, 48 * 12, dtype=np.float32).reshape(48, 12), np.arange(48) % 3


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """`left()`: the classes of all objects that were made since, and are still there.

    The collector is off.
    """
    made: list[weakref.ref[Any]] = []

    def watch(kind: type) -> None:
        begin = kind.__init__

        def watching(self: Any, *args: Any, **kwargs: Any) -> None:
            made.append(weakref.ref(self))
            begin(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", watching)

    for kind in WATCHED:
        watch(kind)
    gc.collect()
    gc.disable()
    yield lambda: sorted(type(one()).__name__ for one in made if one() is not None)
    gc.enable()


def network_on(device: Backend) -> Sequential:
    return Sequential(plain(), backend=device, seed=1)


def fit(device: Backend, **options: Any) -> None:
    options = {"optimizer": xn.SGD(), "epochs": 5, "batch_size": 16} | options
    xn.fit(network_on(device), DATA, DATA, **options)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_outlives_fit(precision: str, device: Backend, left: Any) -> None:
    fit(device, precision=precision)
    assert left() == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_of_a_training_outlives_it_where_the_network_does(
    precision: str, device: Backend, left: Any
) -> None:
    network = network_on(device)
    xn.fit(network, DATA, optimizer=xn.SGD(), epochs=5, batch_size=16, precision=precision)
    network.predict(DATA[0])
    xn.evaluate(network, DATA)
    assert left() == ["Sequential"]
    del network
    assert left() == []


def test_nothing_outlives_a_step_of_ones_own(device: Backend, left: Any) -> None:
    network, x, y = network_on(device), device.asarray(DATA[0]), device.asarray(DATA[1])
    step = xn.TrainStep(network, "cross_entropy", "sgd")
    for _ in range(6):
        value = step(x, y)
    assert "TrainStep" in left()
    del step, value
    assert left() == ["Sequential"]


class Raising(xn.Callback):
    """Raises `error` once a graph has been launched."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def on_step_end(self, run: Any) -> None:
        if run.step == 9:
            error, self.error = self.error, None
            assert error is not None
            try:
                raise error
            finally:
                del error


def cuda_error() -> Exception:
    return cupy.cuda.runtime.CUDARuntimeError(719)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: KeyError("x"), KeyError),
        (lambda: KeyboardInterrupt(), KeyboardInterrupt),
        (lambda: DivergenceError("x"), DivergenceError),
        (cuda_error, BackendUnavailable),
        (lambda: cupy.cuda.memory.OutOfMemoryError(512, 0, 0), OutOfDeviceMemory),
    ],
)
def test_nothing_outlives_an_error_of_fit(
    error: Callable[[], BaseException], expected: type[BaseException], device: Backend, left: Any
) -> None:
    def train() -> str:
        try:
            fit(device, callbacks=[Raising(error())])
        except expected as found:
            return type(found).__name__
        return "none"

    assert train() == expected.__name__
    assert left() == []


def test_nothing_outlives_a_failing_capture(
    device: Backend, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training continues call by call; the error and its traceback go with the training."""

    def fail(*_: Any) -> None:
        raise RuntimeError("it cannot be captured")

    monkeypatch.setattr(_GraphStream, "capture", fail)
    with pytest.warns(RuntimeWarning, match="it cannot be captured"):
        fit(device)
    assert left() == []


def test_nothing_outlives_an_estimator(left: Any) -> None:
    estimator = XpnetClassifier(hidden_layer_sizes=(7,), max_iter=4, n_iter_no_change=math.inf)
    estimator.fit(*DATA)
    estimator.predict(DATA[0])
    assert "Sequential" in left()
    del estimator
    assert left() == []


def test_memory_of_the_device_is_what_it_was(device: Backend, left: Any) -> None:
    """In bytes: of CuPy's pool, and of the handles of cuBLAS."""
    if device.xp is strict_cupy.xp:
        from nvmath.bindings import cublas

        fit(device)
        assert cublas.handles == {}
        return
    pool, used = cupy.get_default_memory_pool(), []
    for _ in range(3):
        fit(device)
        device.synchronize()
        used.append(pool.used_bytes())
    assert used == [used[0]] * 3


def test_the_double_has_no_garbage_of_its_own(left: Any) -> None:
    """Else the tests above could tell nothing."""
    made = weakref.ref(strict_cupy.xp.ones(3))
    assert made() is None
