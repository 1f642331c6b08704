"""`cuda:1`: everything is computed on the device of the network, in every thread and callback.

The double's devices share their memory, so what is right here is which of them is the current one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import strict_cupy
import strict_graphs
from cuda_on_cpu import kernels_on_the_double
from strict_graphs import graphs_on_the_double

import xpnet as xn
from xpnet.backend import Backend, device_errors, on_its_device
from xpnet.errors import OutOfDeviceMemory
from xpnet.network import Sequential


@pytest.fixture
def second() -> Iterator[Backend]:
    """The double's `cuda:1`, while `cuda` is the current device."""
    assert strict_cupy.current == [0]
    backend = Backend.of(strict_cupy.xp)
    backend.device = "cuda:1"
    strict_cupy.ledger.reset()
    yield backend
    strict_cupy.ledger.reset()
    assert strict_cupy.current == [0]


class Elsewhere(xn.Callback):
    """Makes another device the current one, as a `Backend` of it does, and does not say so."""

    def on_step_end(self, run: Any) -> None:
        assert strict_cupy.current[-1] == 1
        strict_cupy.xp.cuda.Device(0).use()

    on_epoch_begin = on_train_begin = on_step_end


def work(backend: Backend, **options: Any) -> Sequential:
    """A network is made, trained, asked, saved and restored."""
    x = np.random.default_rng(5).integers(0, 256, (50, 12), np.uint8)
    layers = [xn.Linear(12, 7), xn.BatchNorm(7), xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, 3)]
    network = Sequential(layers, backend=backend, seed=1)
    labels = x[:, :3].argmax(axis=1)
    data = xn.DeviceData(x, labels, backend=backend, dtype="float32")
    options = {"optimizer": xn.Adam(), "epochs": 3, "batch_size": 5, "l2": 0.1} | options
    xn.fit(network, data, data, **options)
    xn.evaluate(network, data)
    asked = backend.asarray(np.ones((3, 12), np.float32))
    network.predict(asked)
    network.predict_proba(asked)
    network.load_state_dict(network.state_dict() | {"0.bias": np.ones(7, np.float32)})
    backend.synchronize()
    return network


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("kernels", [False, True])
def test_all_work_is_done_there(second: Backend, kernels: bool, precision: str) -> None:
    weights = (np.arange(50) + 1.0).astype(np.float32)
    options = {"callbacks": [Elsewhere()], "sample_weight": weights, "clip_norm": 1.0}
    with kernels_on_the_double() if kernels else nullcontext(), graphs_on_the_double():
        work(second, precision=precision, **options)
        assert "launch" in strict_graphs.log
    assert strict_cupy.ledger.counts["op"] > 100
    assert strict_cupy.ledger.devices == {1}


def test_in_another_thread(second: Backend) -> None:
    """Which begins on the first device."""
    failed: list[BaseException] = []

    def run(action: Callable[[], Any]) -> None:
        try:
            action()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, args=(lambda: work(second),))
    thread.start()
    thread.join()
    assert failed == []
    assert strict_cupy.ledger.devices == {1}


def test_an_error_leaves_the_current_device_as_it_was(second: Backend) -> None:
    class Stop(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            raise KeyError("x")

    with pytest.raises(KeyError):
        work(second, callbacks=[Stop()])
    assert strict_cupy.current == [0]


def test_messages_name_it(second: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    def full(*_: Any, **__: Any) -> None:
        raise cupy.cuda.memory.OutOfMemoryError(2**30, 0, 0)

    monkeypatch.setattr(strict_cupy.xp, "maximum", full)
    with pytest.raises(OutOfDeviceMemory, match="memory of device cuda:1"):
        work(second)
    lost = cupy.cuda.runtime.CUDARuntimeError(719)
    assert "device cuda:1 failed" in str(device_errors.explained(lost, second.device))
    assert "device cuda failed" in str(device_errors.explained(lost))
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 1)
    assert "device cuda:1 failed" in str(device_errors.explained(lost))


def test_the_cpu_has_no_current_device() -> None:
    backend = Backend()
    assert backend.number == 0
    with backend.current():
        assert strict_cupy.current == [0]
    assert Backend.current(backend) is Backend.current(Backend())


def test_a_function_of_a_network_is_found_by_name_too(second: Backend) -> None:
    network = Sequential([xn.Linear(2, 2)], backend=second)
    assert on_its_device(lambda network: strict_cupy.current[-1])(network=network) == 1
