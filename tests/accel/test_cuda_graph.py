"""CUDA graphs without a GPU: who is called when, and what becomes of a step when that fails.

The double's streams only pretend (see `strict_graphs`); what is right here is the bookkeeping. On a
real GPU, `--device cuda`, training with graphs is compared with training without.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import cupy
import numpy as np
import pytest
import strict_cupy
import strict_graphs
from cuda_on_cpu import kernels_on_the_double
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_graphs import Cublas, graphs_on_the_double
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel.cublas import Products
from xpnet.accel.cuda_graph import Graphs
from xpnet.accel.program import operation
from xpnet.accel.recording import record
from xpnet.backend import Array, Backend, array_module
from xpnet.data import Normalisation, load_dataset, split
from xpnet.layers.base import Layer
from xpnet.network import Sequential

FEATURES, CLASSES = 12, 3
DOUBLE = Backend.of(strict_cupy.xp)
FIRST = ["record default", "own waits for event of default", "record own"]
FIRST += ["default waits for event of own"]
"""What the warm-up of a step leaves in the log."""


@pytest.fixture
def cublas() -> Iterator[Cublas]:
    with graphs_on_the_double() as bindings:
        yield bindings


def plain() -> list[Layer]:
    return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, CLASSES)]


def trained(
    backend: Backend = DOUBLE,
    make: Callable[[], list[Layer]] = plain,
    *,
    rows: int = 50,
    **options: Any,
) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """The values that a training of 4 steps an epoch leaves, and its records."""
    x = np.random.default_rng(5).integers(0, 256, (rows, FEATURES), np.uint8)
    network = Sequential(make(), backend=backend, seed=1)
    data = xn.DeviceData(
        x,
        x[:, :CLASSES].argmax(axis=1),
        backend=backend,
        dtype="float32",
        normalisation=Normalisation(1 / 255, -0.25),
        image_shape=(3, 4),
    )
    options = {"optimizer": xn.Adam(), "epochs": 5, "batch_size": 16, "seed": 3} | options
    history = xn.fit(network, data, data, **options)
    records = [(r.step, r.loss, r.accuracy, r.val_loss, r.val_accuracy) for r in history.records]
    return backend.to_host(network.flat_parameters).copy(), records


def call_by_call(*arguments: Any, **options: Any) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SETTINGS, "graphs_enabled", False)
        return trained(*arguments, **options)


def assert_close(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    assert np.allclose(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert np.allclose(one[1], other[1], rtol=1e-4, atol=1e-5)


# ---- when ----


def test_a_step_is_written_recorded_warmed_up_captured_and_launched(cublas: Cublas) -> None:
    found = trained(rows=48)
    assert strict_graphs.log == [*FIRST, "begin", "end", *["launch"] * (5 * 3 - 3)]
    assert_close(found, call_by_call(rows=48))


def test_each_size_of_batch_has_a_graph_of_its_own(cublas: Cublas) -> None:
    found = trained()
    events = Counter(strict_graphs.log)
    assert events["begin"] == events["end"] == 2
    # Of 15 full batches and 5 short ones, two of each run as written and one is the warm-up.
    assert events["launch"] == (15 - 3) + (5 - 3)
    assert len(cublas.handles) <= 1, "all graphs of a training share one handle"
    assert_close(found, call_by_call())


def test_too_few_steps_for_a_graph(cublas: Cublas) -> None:
    trained(rows=16, epochs=2)
    assert strict_graphs.log == []
    trained(rows=16, epochs=3)
    assert strict_graphs.log == FIRST
    assert cublas.handles.keys() <= set(range(1000))


def test_a_full_batch(cublas: Cublas) -> None:
    found = trained(batch_size=None, epochs=8)
    assert Counter(strict_graphs.log)["launch"] == 8 - 3
    assert_close(found, call_by_call(batch_size=None, epochs=8))


def everything() -> list[Layer]:
    return [
        xn.GaussianNoise(0.1),
        xn.Linear(FEATURES, 9),
        xn.BatchNorm(9),
        xn.LeakyReLU(0.1),
        xn.Linear(9, 8),
        xn.LayerNorm(8),
        xn.Tanh(),
        xn.Linear(8, 7),
        xn.GELU(),
        xn.Dropout(0.1),
        xn.Linear(7, 6),
        xn.Sigmoid(),
        xn.Linear(6, 5),
        xn.Softmax(),
        xn.Linear(5, CLASSES),
    ]


OPTIONS = [
    pytest.param({}, id="plain"),
    # Not by Adam: the gradient of the bias before `BatchNorm` is 0 but for rounding, which Adam,
    # dividing by the size of the gradient, would make whole steps of.
    pytest.param({"make": everything, "optimizer": lambda: xn.SGD(0.05)}, id="every layer"),
    pytest.param({"l2": 0.1, "optimizer": xn.SGD}, id="L2"),
    pytest.param({"optimizer": lambda: xn.SGD(0.1, momentum=0.9, weight_decay=0.1)}, id="momentum"),
    pytest.param({"optimizer": xn.RMSprop}, id="RMSprop"),
    pytest.param({"loss": lambda: xn.SoftmaxCrossEntropy(0.1)}, id="smoothing"),
    pytest.param({"augmentation": lambda: xn.Augmentation(shift=1.0, elastic=2.0)}, id="distorted"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_step_can_be_captured(cublas: Cublas, options: dict[str, Any], kernels: bool) -> None:
    """Nothing in a step waits, moves, allocates or goes past `xp`; products by our own handle."""

    def made() -> dict[str, Any]:
        return {k: v if k == "make" else v() if callable(v) else v for k, v in options.items()}

    with kernels_on_the_double() if kernels else nullcontext():
        found = trained(**made())
        assert Counter(strict_graphs.log)["launch"] == 14
        assert_close(found, call_by_call(**made()))


def test_a_launch_is_all_that_a_steady_step_is(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Counter[str]] = []

    def launch(self: strict_graphs.Graph) -> None:
        launched.append(strict_cupy.ledger.operations.copy())

    monkeypatch.setattr(strict_graphs.Graph, "launch", launch)
    strict_cupy.ledger.reset()
    with strict_cupy.forbid():
        trained(rows=48, epochs=3)
    one, other = launched[-2:]
    # Which samples, and the optimizer's numbers, go to where the graph reads them.
    assert other - one == {"copyto": 2}


@pytest.mark.parametrize("make", [plain, everything])
def test_training_with_graphs_is_training_without(
    request: pytest.FixtureRequest, make: Callable[[], list[Layer]]
) -> None:
    """On a GPU where there is one: 200 steps, to 1e-4 of the weights."""
    on_gpu = request.config.getoption("--device") == "cuda"
    with nullcontext() if on_gpu else graphs_on_the_double():
        backend = Backend("cuda") if on_gpu else DOUBLE
        found = trained(backend, make, epochs=50, rows=60, optimizer=xn.SGD(0.02))
        assert on_gpu or Counter(strict_graphs.log)["launch"] == 200 - 6
        expected = call_by_call(backend, make, epochs=50, rows=60, optimizer=xn.SGD(0.02))
    assert np.linalg.norm(found[0] - expected[0]) <= 1e-4 * np.linalg.norm(expected[0])


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, everything])
def test_training_with_all_of_it_is_training_on_the_cpu(
    request: pytest.FixtureRequest, make: Callable[[], list[Layer]]
) -> None:
    """Graphs and kernels, against formulas on NumPy: 200 steps, to 1e-4 of the weights."""
    on_gpu = request.config.getoption("--device") == "cuda"
    options: dict[str, Any] = {"epochs": 50, "rows": 60}
    with (
        nullcontext() if on_gpu else graphs_on_the_double(),
        nullcontext() if on_gpu else kernels_on_the_double(),
    ):
        backend = Backend("cuda") if on_gpu else DOUBLE
        found = trained(backend, make, optimizer=xn.SGD(0.02), **options)
    expected = trained(Backend("cpu"), make, optimizer=xn.SGD(0.02), **options)
    assert np.linalg.norm(found[0] - expected[0]) <= 1e-4 * np.linalg.norm(expected[0])


def test_an_epoch_of_digits_is_that_of_the_cpu(request: pytest.FixtureRequest) -> None:
    """The same batches and masks to the bit; test accuracy within 0.3 points."""
    on_gpu = request.config.getoption("--device") == "cuda"
    parts = split(load_dataset("digits"), validation=None, test=None, seed=0)
    how = Normalisation.unit(parts.train)
    accuracies, masks, batches = [], [], []
    with nullcontext() if on_gpu else graphs_on_the_double():
        for backend in (Backend("cpu"), Backend("cuda") if on_gpu else DOUBLE):
            layers = [xn.Linear(784, 32), xn.ReLU(), xn.Dropout(0.2), xn.Linear(32, 10)]
            network = Sequential(layers, backend=backend, seed=1)
            data = {"backend": backend, "dtype": "float32"}
            train, test = (xn.DeviceData.of(d, how, **data) for d in (parts.train, parts.test))
            xn.fit(network, train, optimizer=xn.Adam(), epochs=1, batch_size=50, seed=3)
            accuracies.append(xn.evaluate(network, test).accuracy)
            masks.append(backend.to_host(layers[2].mask).tobytes())
            batches.append(backend.to_host(layers[0].x).tobytes())
    assert masks[0] == masks[1]
    assert batches[0] == batches[1]
    assert accuracies[0] > 0.7
    assert abs(accuracies[0] - accuracies[1]) <= 0.003


# ---- what if not ----


def test_without_bindings_there_is_one_warning_and_the_same_training() -> None:
    expected = call_by_call()
    with (
        graphs_on_the_double(bindings=False),
        pytest.warns(RuntimeWarning, match="pip install nvmath-python") as caught,
    ):
        found = trained()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert strict_graphs.log == []
    assert found[0].tobytes() == expected[0].tobytes()
    assert found[1] == expected[1]


class Waiting(Layer):
    """`y = x`, by a way that looks at values on the host."""

    replayable: ClassVar[bool] = True

    def forward(self, x: Array, *, training: bool) -> Array:
        xp = array_module(x)
        y = self.like(x, "y")
        self.call(xp, x, y)
        return y

    def call(self, xp: Any, x: Array, y: Array) -> None:
        xp.copyto(y, x)

    def backward(self, dy: Array) -> Array:
        return dy


def looks(x: Any, *, out: Any) -> Any:
    out[...] = x
    return out


def test_a_call_that_cannot_be_captured_costs_one_warning_and_no_step(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the capture had begun is thrown away, and the step is run call by call, once."""

    class Looking(Waiting):
        replayable: ClassVar[bool] = True

        def call(self, xp: Any, x: Array, y: Array) -> None:
            xp.looks(x, out=y)

    monkeypatch.setattr(strict_cupy.xp, "looks", looks, raising=False)

    def layers() -> list[Layer]:
        return [*plain(), Looking()]

    with pytest.warns(RuntimeWarning, match=r"setitem \(op\) is not permitted") as caught:
        found = trained(make=layers)
    assert len(caught) == 1
    assert strict_graphs.log == [*FIRST, "begin", "broken"]
    assert_close(found, call_by_call(make=layers))


def test_after_a_failure_nothing_else_is_captured(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what was run before."""
    xp = strict_cupy.xp
    a, b = xp.ones(3), xp.zeros(3)
    graphs = Graphs(xp)
    program = record(xp, lambda: array_module(a).add(b, a, out=b))
    one, other = graphs.of(program), graphs.of(program)
    one()
    other()
    monkeypatch.setattr(strict_graphs.Graph, "__init__", lambda *_: 1 / 0)
    with pytest.warns(RuntimeWarning, match="division by zero") as caught:
        one()
    for _ in range(2):
        one()
        other()
    assert len(caught) == 1
    assert strict_graphs.log == [*FIRST, *FIRST, "begin", "end"]
    graphs.of(program)()
    assert strict_graphs.log == [*FIRST, *FIRST, "begin", "end"]
    assert b.get().tolist() == [9, 9, 9]


def test_a_product_that_cannot_be_made_so_costs_one_warning(cublas: Cublas) -> None:
    """It is seen before anything is run."""

    class Halves(Waiting):
        replayable: ClassVar[bool] = True

        def call(self, xp: Any, x: Array, y: Array) -> None:
            wide = self.workspace.array(xp, "wide", (CLASSES, 2 * CLASSES), x.dtype)
            xp.copyto(wide, 1)
            xp.dot(x, wide[:, ::2], out=y)

    def layers() -> list[Layer]:
        return [*plain(), Halves()]

    with pytest.warns(RuntimeWarning, match="neither row by row nor column by column") as caught:
        found = trained(make=layers)
    assert len(caught) == 1
    assert strict_graphs.log == []
    expected = call_by_call(make=layers)
    assert found[0].tobytes() == expected[0].tobytes()


def test_an_error_of_the_warm_up_is_reported(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of that step has been done: it must not be done again."""

    def fail(*_: Any) -> None:
        raise OSError("lost")

    monkeypatch.setattr(Cublas, "gemm_ex", fail)
    with pytest.raises(OSError, match="lost"):
        trained()
    assert strict_graphs._current[-1].is_default


def test_off_is_off(cublas: Cublas) -> None:
    call_by_call()
    assert strict_graphs.log == []


def test_numpy_and_the_double_as_it_is_have_no_graphs() -> None:
    for xp in (np, strict_cupy.xp):
        total, one = xp.zeros(3), xp.ones(3)
        program = record(xp, lambda: array_module(total).add(total, one, out=total))  # noqa: B023
        Graphs(xp).of(program)()
        assert Backend.of(total).to_host(total).tolist() == [2, 2, 2]


# ---- what is kept, and what is dropped ----


def test_arrays_live_as_long_as_the_graph_that_knows_their_addresses(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    xp = strict_cupy.xp

    def product(a: Array, b: Array, out: Array) -> None:
        array_module(a).dot(a, b, out=out)

    arrays = [xp.ones((2, 2)), xp.ones((2, 2)), xp.zeros((2, 2))]
    kept = weakref.ref(arrays[1])
    step = Graphs(xp).of(record(xp, lambda: product(*arrays)))
    arrays.clear()
    for _ in range(2):
        step()
    # A real graph holds nothing.
    monkeypatch.setattr(strict_graphs.Graph, "launch", lambda self: self.calls.clear())
    step()
    gc.collect()
    assert kept() is not None
    del step
    gc.collect()
    assert kept() is None


def test_a_disturbed_step_begins_anew_and_drops_its_graph(
    cublas: Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []
    made = strict_graphs.Graph.__init__

    def watching(self: Any, calls: Any) -> None:
        made(self, calls)
        graphs.append(weakref.ref(self))

    monkeypatch.setattr(strict_graphs.Graph, "__init__", watching)

    class Swap(xn.Callback):
        """Half way, a layer gets another array to write to."""

        def on_step_end(self, run: Any) -> None:
            if run.step == 8:
                gc.collect()
                assert len(graphs) == 1
                assert graphs[0]() is not None
                layer = run.network.layers[0]
                layer.gradients = dict(layer.gradients)
                layer.workspace = type(layer.workspace)()
                layer.x = None
            if run.step == 10:
                gc.collect()
                assert graphs[0]() is None

    found = trained(rows=48, callbacks=(Swap(),), log_every=100)
    assert len(graphs) == 2
    assert_close(found, call_by_call(rows=48, log_every=100))


def test_the_handle_goes_with_the_training(cublas: Cublas) -> None:
    trained()
    gc.collect()
    assert cublas.handles == {}


# ---- products ----


@pytest.mark.parametrize(("capability", "size"), [("75", 4), ("86", 4), ("90", 32), ("120", 32)])
def test_the_handle_has_a_stream_and_a_workspace_of_its_own(capability: str, size: int) -> None:
    with graphs_on_the_double(capability=capability) as cublas:
        stream = strict_graphs.Stream(non_blocking=True)
        products = Products(strict_cupy.xp, stream)
        (options,) = cublas.handles.values()
        assert options["stream"] == stream.ptr
        assert options["bytes"] == size * 2**20
        assert options["address"] == products._workspace.data.ptr


lengths, lies = st.integers(1, 7), st.sampled_from("CF")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=30)
@given(rows=lengths, inner=lengths, columns=lengths, lie_a=lies, lie_b=lies)
def test_a_product_of_matrices(
    dtype: str, rows: int, inner: int, columns: int, lie_a: str, lie_b: str
) -> None:
    rng = np.random.default_rng(rows)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, inner), (inner, columns)))
    check(np.asarray(a, order=lie_a), np.asarray(b, order=lie_b), np.empty((rows, columns), dtype))
    stack = rng.standard_normal((2, rows, inner)).astype(dtype)
    check(stack, np.asarray(b, order=lie_b), np.empty((2, rows, columns), dtype))
    check(stack, b[:, 0].copy(), np.empty((2, rows), dtype))
    stacked = rng.standard_normal((2, inner, columns)).astype(dtype)
    check(np.asarray(a, order=lie_a), stacked, np.empty((2, rows, columns), dtype))
    check(stack, stacked, np.empty((2, rows, columns), dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=30)
@given(inner=lengths, other=lengths, lie=lies)
def test_a_product_with_vectors(dtype: str, inner: int, other: int, lie: str) -> None:
    rng = np.random.default_rng(inner)
    vector = rng.standard_normal(inner).astype(dtype)
    matrix = np.asarray(rng.standard_normal((inner, other)).astype(dtype), order=lie)
    check(vector, matrix, np.empty(other, dtype))
    check(matrix.T, vector, np.empty(other, dtype))
    check(vector, vector[::-1].copy(), np.empty((), dtype))


def check(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Whatever stood in `out` before, NaN too, it is `a b` in the end."""
    out[...] = np.nan
    device = [strict_cupy.ndarray(array) for array in (a, b, out)]
    with graphs_on_the_double():
        stream = strict_graphs.Stream(non_blocking=True)
        products = Products(strict_cupy.xp, stream)
        with stream:
            products.product(*device)()
    assert np.allclose(out, np.matmul(a, b), rtol=1e-5, atol=1e-5)


def test_products_that_are_refused(cublas: Cublas) -> None:
    xp = strict_cupy.xp
    product = Products(xp, strict_graphs.Stream(non_blocking=True)).product
    square = xp.ones((4, 4))
    stacked = square.reshape(2, 4, 2)
    with pytest.raises(TypeError, match="a dot product with several matrices"):
        Products(xp, strict_graphs.Stream(non_blocking=True)).call_of(
            operation(xp, "dot", (square, stacked), {"out": xp.ones((4, 2, 2))})
        )
    for a, b, out in (
        (square, square, square.astype("float32")),
        (square.astype(int), square.astype(int), square.astype(int)),
        (square, square, xp.ones((4, 4)).T),
        (square[:, ::2], square[:2], xp.ones((4, 4))),
        (xp.transpose(square.reshape(2, 2, 4), (1, 0, 2)), square, xp.ones((2, 2, 4))),
        (square[:2], xp.transpose(stacked, (0, 2, 1)).T, xp.ones((2, 2, 2))),
        (square[0], stacked, xp.ones((2, 2))),
        (square, square.reshape(1, 2, 4, 2), xp.ones((1, 2, 4, 2))),
    ):
        with pytest.raises(TypeError, match="a product"):
            product(a, b, out)


# ---- the real libraries ----


def test_cupy_has_what_is_asked_of_it() -> None:
    for name in ("begin_capture", "end_capture", "record", "wait_event", "__enter__"):
        assert callable(getattr(cupy.cuda.Stream, name))
    assert callable(cupy.cuda.Graph.launch)
    assert callable(cupy.cuda.MemoryPool.malloc)
    assert callable(cupy.cuda.using_allocator)
    assert callable(cupy.cuda.get_current_stream)
    assert hasattr(cupy.cuda.Device, "compute_capability")
    # The two that differ from all other calls.
    assert cupy.dot is not cupy.matmul


def test_the_pretended_bindings_are_those_of_nvidia() -> None:
    real = pytest.importorskip("nvmath.bindings.cublas")
    names = [name for name, item in vars(Cublas).items() if inspect.isfunction(item)]
    names = [name for name in names if not name.startswith("_")]
    assert len(names) == 8
    for name in names:
        own = inspect.signature(getattr(Cublas, name)).parameters
        assert list(own)[1:] == list(inspect.signature(getattr(real, name)).parameters)
    assert (real.Operation.N, real.Operation.T) == (0, 1)
    assert real.ComputeType.COMPUTE_32F == 68
    assert real.ComputeType.COMPUTE_64F == 70
    assert real.ComputeType.COMPUTE_32F_FAST_TF32 == 77
    assert real.ComputeType.COMPUTE_32F_FAST_16BF == 75
