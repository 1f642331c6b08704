"""Sums and means of CuPy in a CUDA graph: those of MSE, BCE and sample weights are made by CUB.

CuPy gives them to CUB (`CUPY_ACCELERATORS=cub`, its default), which needs scratch memory for each.
The warm-up of a step has put that memory into the pool of the graph, so a capture takes it from
there: it calls no `cudaMalloc`, and it waits for nothing. `--device cuda` shows it on CuPy. The
double refuses whatever allocates or waits while a stream is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import strict_cupy
from strict_graphs import graphs_on_the_double
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import cuda_graph
from xpnet.backend import Backend

ROWS, FEATURES, OUTPUTS = 48, 12, 3
LOSSES: dict[str, Callable[[], Any]] = {
    "mse": xn.MeanSquaredError,
    "binary cross-entropy": xn.SigmoidBinaryCrossEntropy,
    "cross-entropy": xn.SoftmaxCrossEntropy,
}
WEIGHTS = (np.arange(ROWS) % 7 + 1.0).astype(np.float32)


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The double with its streams, or with `--device cuda` CuPy with CUB in use."""
    if request.config.getoption("--device") != "cuda":
        with graphs_on_the_double():
            yield Backend.of(strict_cupy.xp)
        return
    backend = Backend("cuda")
    accelerators = backend.xp._core.get_reduction_accelerators()
    backend.xp._core.set_reduction_accelerators(["cub"])
    yield backend
    backend.xp._core.set_reduction_accelerators(accelerators)


def has_pools(backend: Backend) -> bool:
    """Whether it is CuPy."""
    return hasattr(backend.xp.cuda, "MemoryHook")


class Captures:
    """How many captures were made, and what CuPy asked its pool and the device for in them."""

    def __init__(self, backend: Backend, patch: pytest.MonkeyPatch) -> None:
        self.made, self.allocations, self.requests = 0, 0, 0
        capture = cuda_graph._GraphStream.capture

        def noting(stream: Any, calls: Any) -> Any:
            with self.counted(backend):
                graph = capture(stream, calls)
            self.made += 1
            return graph

        patch.setattr(cuda_graph._GraphStream, "capture", noting)

    def counted(self, backend: Backend) -> Any:
        """A block in which the requests to the pool and to the device are counted."""
        if not has_pools(backend):
            return nullcontext()
        captures = self

        class Hook(backend.xp.cuda.MemoryHook):  # type: ignore[misc]
            name = "requests"

            def malloc_preprocess(self, **_: Any) -> None:
                captures.requests += 1

            def alloc_preprocess(self, **_: Any) -> None:
                captures.allocations += 1

        return Hook()


def trained(backend: Backend, loss: Any, weights: Any) -> tuple[np.ndarray, list[float]]:
    """The parameters after 5 epochs of 3 steps, and the losses of the epochs."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((ROWS, FEATURES)).astype(np.float32)
    labels = x[:, :OUTPUTS].argmax(axis=1)
    is_classifier = isinstance(loss, xn.SoftmaxCrossEntropy)
    target = labels if is_classifier else np.eye(OUTPUTS, dtype=np.float32)[labels]
    layers = [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Linear(7, OUTPUTS)]
    network = xn.Sequential(layers, backend=backend, seed=1)
    options = {"optimizer": xn.Adam(), "epochs": 5, "batch_size": 16, "seed": 3}
    history = xn.fit(network, (x, target), loss=loss, sample_weight=weights, **options)
    losses = [record.loss for record in history.records]
    return backend.to_host(network.flat_parameters).copy(), losses


@pytest.mark.slow
@pytest.mark.parametrize("with_kernels", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_captured_without_memory_of_the_device(
    name: str, weights: Any, with_kernels: bool, gpu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused capture would be a warning, which is an error here."""
    monkeypatch.setattr(SETTINGS, "kernels_enabled", with_kernels)
    with monkeypatch.context() as patch:
        patch.setattr(SETTINGS, "graphs_enabled", False)
        expected = trained(gpu, LOSSES[name](), weights)
    captures = Captures(gpu, monkeypatch)
    found = trained(gpu, LOSSES[name](), weights)
    assert captures.made == 1
    assert captures.allocations == 0
    # Graphs make their products by another handle, which may add in another order: 15 steps of
    # Adam of 0.001 move a parameter by 0.015 at most, and rounding by far less.
    assert np.allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert np.allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_the_capture_of_a_loss_by_cub_takes_scratch_memory(
    weights: Any, gpu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above counts what it says: on CuPy the pool is asked, and has it."""
    captures = Captures(gpu, monkeypatch)
    trained(gpu, xn.MeanSquaredError(), weights)
    assert (captures.requests > 0) == has_pools(gpu)
