"""Steps, graphs and products on a device: with `--device cuda` CuPy, else the double.

What a test without a device cannot show is looked for here: work that no stream orders, memory that
a graph uses after it is freed, products of every layout by the handle that graphs use.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import kernels_on_the_double
from steady import steady
from strict_graphs import graphs_on_the_double
from test_cuda_graph import CLASSES, DOUBLE, FEATURES, everything, plain
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import dispatch
from xpnet.accel.cublas import Products, chosen, used
from xpnet.accel.cuda_graph import Graphs
from xpnet.accel.recording import record
from xpnet.backend import Array, Backend, array_module
from xpnet.data import Normalisation
from xpnet.training.step import train_step

ROUNDING = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}
"""By how much, relatively, a factor of a product is rounded at most."""


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """CuPy where it was asked for; else the double, with pretended graphs and kernels."""
    if request.config.getoption("--device") == "cuda":
        yield Backend("cuda")
        return
    with graphs_on_the_double(), kernels_on_the_double():
        yield DOUBLE


def data(rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(5).integers(0, 256, (rows, FEATURES), np.uint8)
    return x, x[:, :CLASSES].argmax(axis=1)


def without_graphs(monkeypatch: pytest.MonkeyPatch, run: Callable[[], np.ndarray]) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(SETTINGS, "graphs_enabled", False)
        return run()


def fill_free_memory(backend: Backend) -> list[Any]:
    """Arrays of NaN where the pool has free blocks, so that who still reads these gets NaN."""
    sizes = [256, 512, 1024, 2048, 4096, 8192, 32768]
    return [backend.xp.full(size, np.nan, "float32") for size in sizes for _ in range(40)]


# ---- what a steady step does not do ----


class SteadySteps(xn.Callback):
    """The last steps of an epoch of 12 are steady."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.stack, self.checked = backend, ExitStack(), 0

    def on_step_end(self, run: Any) -> None:
        if run.step == 8:
            self.stack.enter_context(steady(self.backend))
        if 8 < run.step <= 11:
            self.checked += 1
        if run.step == 11:
            self.stack.close()


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"l2": 0.1, "clip_norm": 1.0, "optimizer": xn.RMSprop},
        {"sample_weight": np.linspace(1, 2, 60)},
        {"augmentation": lambda: xn.Augmentation(shift=1, rotation=10, elastic=2.0)},
    ],
    ids=["plain", "L2 and clipping", "weights", "distorted"],
)
def test_a_replayed_step_neither_waits_nor_allocates(
    device: Backend, monkeypatch: pytest.MonkeyPatch, graphs: bool, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(SETTINGS, "graphs_enabled", graphs)
    made = {"optimizer": xn.Adam} | options
    made |= {name: make() for name, make in made.items() if callable(make)}
    network = xn.Sequential(plain(), backend=device, seed=1)
    how = {"backend": device, "dtype": "float32", "image_shape": (3, 4)}
    train = xn.DeviceData(*data(), normalisation=Normalisation(1 / 255, -0.25), **how)
    steps = SteadySteps(device)
    xn.fit(network, train, epochs=1, batch_size=5, seed=3, callbacks=[steps], **made)
    assert steps.checked == 3


@pytest.mark.parametrize("loss", [xn.SoftmaxCrossEntropy, xn.MeanSquaredError])
@pytest.mark.parametrize("weighted", [False, True])
def test_nor_does_a_step_as_written(
    device: Backend, loss: Callable[[], Any], weighted: bool
) -> None:
    x, labels = data(20)
    network = xn.Sequential(plain(), backend=device, seed=1)
    target = labels if loss is xn.SoftmaxCrossEntropy else x[:, :CLASSES].astype("float32")
    given = device.asarray(x, dtype="float32"), device.asarray(target)
    weights = device.asarray(np.linspace(1, 2, 20, dtype="float32")) if weighted else None
    parts = network, loss(), xn.Adam()
    with dispatch.use_kernels(xp=device.xp):
        for _ in range(3):
            train_step(*parts, *given, weights=weights)
        with steady(device):
            train_step(*parts, *given, weights=weights)


def test_nor_does_a_distortion(device: Backend) -> None:
    distort = xn.Augmentation(shift=1, rotation=10, shear=5, scale=0.1, elastic=2.0)
    distort.begin((3, 4), seed=1)
    images = device.asarray(data()[0], dtype="float32")
    for _ in range(2):  # the buffers of the first take blocks of the pool, the second new ones
        distort.apply(images, images)
    with steady(device):
        distort.apply(images, images)


@pytest.mark.parametrize("rows", [1, 5, 800])
def test_a_prediction_waits_for_nothing(device: Backend, rows: int) -> None:
    network = xn.Sequential(everything(), backend=device, seed=1)
    x = device.asarray(data(rows)[0], dtype="float32")
    network.predict(x)
    with steady(device, allocates=True):
        network.predict(x)


# ---- in which order things happen ----


def test_synchronize_waits_for_the_current_stream(device: Backend) -> None:
    """What was computed before it may then be read on any stream, ordered with it or not."""
    stream, other = (device.xp.cuda.Stream(non_blocking=True) for _ in range(2))
    x = device.xp.zeros(2**20)
    device.synchronize()
    with stream:
        for _ in range(20):
            device.xp.add(x, 1, out=x)
        device.synchronize()
    with other:
        assert (device.to_host(x) == 20).all()


@pytest.mark.parametrize("make", [plain, everything])
def test_training_in_a_stream_of_the_users_own(
    device: Backend, monkeypatch: pytest.MonkeyPatch, make: Callable[[], list[Any]]
) -> None:
    def run() -> np.ndarray:
        with device.xp.cuda.Stream(non_blocking=True):
            network = xn.Sequential(make(), backend=device, seed=1)
            x, y = data(50)
            x = x.astype("float32") / 255
            xn.fit(network, (x, y), optimizer=xn.SGD(0.02), epochs=5, batch_size=16, seed=3)
            return device.to_host(network.flat_parameters).copy()

    found, expected = run(), without_graphs(monkeypatch, run)
    # As `test_training_with_graphs_is_training_without`: sums in another order, over 20 steps.
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ROUNDING)
def test_a_product_of_a_precision_is_in_order_and_in_range(device: Backend, precision: str) -> None:
    """Values beyond float16 stay finite; factors and result come from and go to other kernels."""
    xp, rng = device.xp, np.random.default_rng(1)
    products = chosen(precision, device, "float32")
    hosts = [rng.uniform(1, 2, shape).astype("float32") for shape in ((8, 16), (16, 5))]
    a, b = (device.asarray(host) for host in hosts)
    xp.multiply(a, 1e5, out=a)
    out = xp.zeros((8, 5), "float32")
    with used(products):
        array_module(a).dot(a, b, out=out)
    xp.multiply(out, 2, out=out)
    expected = 2e5 * hosts[0].astype("float64") @ hosts[1]
    # Both factors are rounded; all terms are positive. Rounding of the sums is 2⁻²⁴ a term.
    bound = (1 + ROUNDING[precision]) ** 2 - 1 + 2 * 16 * 2.0**-24
    found = device.to_host(out)
    assert (np.abs(found - expected) <= bound * expected).all()


@pytest.mark.parametrize("precision", ROUNDING)
def test_a_sum_over_a_batch_is_float32_in_any_precision(device: Backend, precision: str) -> None:
    xp = device.xp
    products = Products(xp, xp.cuda.get_current_stream(), precision)
    # float32 has the terms and their sum without rounding, the precisions have not.
    term = 1 + 2.0**-13
    ones, terms = xp.ones(64, dtype="float32"), xp.full((64, 5), term, "float32")
    out = xp.zeros(5, dtype="float32")
    products.product(ones, terms, out)()
    assert (device.to_host(out) == np.float32(64 * term)).all()


# ---- the handle's products ----

SHAPES = [
    ((3, 7), (7, 5)),
    ((7,), (7, 5)),
    ((3, 7), (7,)),
    ((7,), (7,)),
    ((2, 3, 7), (7, 5)),
    ((3, 7), (2, 7, 5)),
    ((2, 3, 7), (2, 7, 5)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_of_the_handle_are_those_of_numpy(
    device: Backend, shapes: tuple[tuple[int, ...], ...], turned: tuple[bool, bool], dtype: str
) -> None:
    xp, rng = device.xp, np.random.default_rng(1)
    # Whole numbers, so that no order of summation matters.
    hosts = [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]
    expected = np.matmul(*hosts)
    arrays = [
        device.asarray(np.ascontiguousarray(host.T)).T
        if turn and host.ndim == 2
        else device.asarray(host)
        for host, turn in zip(hosts, turned, strict=True)
    ]
    out = device.asarray(np.full(expected.shape, np.nan, dtype))
    products = Products(xp, xp.cuda.get_current_stream())
    call = products.product(*arrays, out)
    call()
    assert np.array_equal(device.to_host(out), expected)
    # Later with other values, as a replayed step does.
    for array in arrays:
        xp.multiply(array, 2, out=array)
    call()
    assert np.array_equal(device.to_host(out), 4 * expected)


def test_nobody_gets_the_workspace_of_the_handle(
    device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nvmath.bindings import cublas

    taken: list[tuple[int, int]] = []
    original = cublas.set_workspace

    def set_workspace(handle: int, address: int, size: int) -> None:
        taken.append((address, size))
        original(handle, address, size)

    monkeypatch.setattr(cublas, "set_workspace", set_workspace)
    products = Products(device.xp, device.xp.cuda.get_current_stream())
    ((address, size),) = taken
    other = device.xp.empty(size, dtype="uint8")
    assert other.data.ptr >= address + size or other.data.ptr + size <= address
    del products


# ---- memory of graphs ----


@pytest.mark.slow
def test_a_graph_of_few_rows_after_one_of_many(
    device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger batch replaces buffers that the graph of the smaller one still uses."""

    def run() -> np.ndarray:
        network = xn.Sequential(everything(), backend=device, seed=1)
        step = xn.TrainStep(network, "cross_entropy", xn.SGD(0.02))
        x, y = data(64)
        x = x.astype("float32") / 255
        for rows, times in ((4, 6), (64, 6), (4, 3)):
            for _ in range(times):
                step(x[:rows], y[:rows])
            gc.collect()
            filled = fill_free_memory(device)
        del filled
        return device.to_host(network.flat_parameters).copy()

    found, expected = run(), without_graphs(monkeypatch, run)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_a_graph_keeps_the_arrays_of_its_calls(device: Backend) -> None:
    xp = device.xp
    factors = [xp.full((64, 64), value, "float32") for value in (2, 3)]
    out = xp.zeros((64, 64), dtype="float32")

    def product(a: Array, b: Array) -> None:
        array_module(a).dot(a, b, out=out)

    step = Graphs(xp).of(record(xp, partial(product, *factors)))
    factors.clear()
    for _ in range(3):  # warmed up, captured, launched
        step()
    gc.collect()
    filled = fill_free_memory(device)
    out.fill(0)
    step()
    assert (device.to_host(out) == 64 * 2 * 3).all()
    del filled


@pytest.mark.parametrize("loss", [xn.MeanSquaredError, xn.SigmoidBinaryCrossEntropy])
def test_memory_that_a_graph_uses_is_given_to_nobody(
    device: Backend, monkeypatch: pytest.MonkeyPatch, loss: Callable[[], Any]
) -> None:
    """Temporary memory of captured calls, such as that of sums, stays with the graph."""

    class Fill(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step % 6 == 0 and "cupy" in sys.modules:
                pool = getattr(device.xp, "get_default_memory_pool", lambda: None)()
                if pool is not None:
                    pool.free_all_blocks()
                self.filled = fill_free_memory(device)

    def run() -> np.ndarray:
        network = xn.Sequential(plain(), backend=device, seed=1)
        x, _ = data(48)
        x = x.astype("float32") / 255
        xn.fit(
            network,
            (x, x[:, :CLASSES]),
            loss=loss(),
            optimizer=xn.SGD(0.02),
            epochs=5,
            batch_size=16,
            callbacks=[Fill()],
        )
        return device.to_host(network.flat_parameters).copy()

    found, expected = run(), without_graphs(monkeypatch, run)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


# ---- arguments of kernels ----


def test_whole_numbers_are_given_to_kernels_as_floats(
    device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`decay_rate=0` makes the kernel's other factor the `int` 1."""

    def run() -> np.ndarray:
        network = xn.Sequential(plain(), backend=device, seed=1)
        x, y = data(20)
        optimizer = xn.RMSprop(0.01, decay_rate=0, epsilon=1)
        xn.fit(network, (x / np.float32(255), y), optimizer=optimizer, epochs=2)
        return device.to_host(network.flat_parameters).copy()

    found = run()
    with monkeypatch.context() as patch:
        patch.setattr(SETTINGS, "kernels_enabled", False)
        patch.setattr(SETTINGS, "kernels", None)
        expected = without_graphs(monkeypatch, run)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-7)
