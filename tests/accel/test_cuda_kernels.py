"""The CUDA kernels without a GPU: each compiles for every architecture and is its formula.

A kernel runs as xpnet runs it, by the layer, loss, optimizer, metric or batch that asks for it, on
the strict double: once as the formula and once as the kernel's own text, compiled for the CPU.
With `--device cuda` the same on real CuPy.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cases
import compile_kernels
import cuda_on_cpu
import cupy
import numpy as np
import pytest
import strict_cupy
from cases import PACKAGE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import cuda_kernels, cuda_launch, dispatch, fusion, recording
from xpnet.backend import Backend, array_module
from xpnet.data import Normalisation
from xpnet.layers.base import Layer, walk
from xpnet.layers.convolution import add_entries, gather_windows
from xpnet.layers.sparse_products import multiply
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.metrics import Accuracy, MeanLoss
from xpnet.network import Sequential
from xpnet.training.running_metrics import RunningMetrics
from xpnet.workspace import Workspace

DOUBLE = Backend.of(strict_cupy.xp)
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 3e38, -1e4, 1e4, 1.0]


@pytest.fixture(scope="module")
def gpu(request: pytest.FixtureRequest) -> Backend:
    """The double, or with `--device cuda` a GPU."""
    return Backend("cuda") if request.config.getoption("--device") == "cuda" else DOUBLE


@contextmanager
def in_use(backend: Backend, *, falling: bool = False) -> Iterator[set[str]]:
    """Within the block kernels are used on `backend`; the names of those that did something."""
    names: set[str] = set()
    run_kernel = dispatch.run_kernel

    def noting(name: str, arguments: tuple[Any, ...]) -> bool:
        done = run_kernel(name, arguments)
        names.update([name] * done)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "run_kernel", noting)
        if backend is not DOUBLE:
            patch.setattr(SETTINGS, "kernels_enabled", True)
            with dispatch.use_kernels(xp=backend.xp):
                yield names
            return
        patch.setattr(cuda_on_cpu.Kernel, "falling", falling)
        with cuda_on_cpu.kernels_on_the_double():
            yield names


# ---- what a kernel computes ----


class Draw:
    """Random arrays on a backend, the same for the same arguments."""

    def __init__(
        self,
        backend: Backend,
        dtype: str,
        seed: int = 0,
        rows: int = 9,
        width: int = 5,
        specials: bool = False,
    ) -> None:
        self.backend, self.dtype, self.rows, self.width = backend, dtype, rows, width
        self.rng, self.specials = np.random.default_rng(seed), specials

    def reals(self, *shape: int) -> Any:
        """Normal draws, `(rows, width)` or `shape`; with `specials` a fifth of them is special."""
        shape = shape or (self.rows, self.width)
        drawn = 2 * self.rng.standard_normal(shape)
        chosen = self.rng.choice(SPECIAL, shape)
        drawn = np.where(self.rng.random(shape) < 0.2 * self.specials, chosen, drawn)
        return self.backend.asarray(drawn.astype(np.float32).astype(self.dtype))

    def labels(self, dtype: str = "int64") -> Any:
        """`(rows,)`."""
        return self.backend.asarray(self.rng.integers(0, self.width, self.rows).astype(dtype))


@dataclass(frozen=True)
class Case:
    id: str
    kernels: set[str]
    run: Callable[[Draw], list[Any]]
    exact: bool = True
    """To the bit: all but exp, log, tanh and sums."""
    divides: bool = False
    """By a deviation, and the smaller that is, the larger what was rounded."""


def activation(kind: Callable[[], Layer]) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        layer = kind()
        y = layer.forward(draw.reals(), training=True).copy()
        return [y, *(layer.backward(draw.reals()).copy() for _ in range(2))]

    return run


def backward(kind: Callable[[], Layer], kept: str) -> Callable[[Draw], list[Any]]:
    """Only the way back, from a forward result that no `exp` or `tanh` has rounded."""

    def run(draw: Draw) -> list[Any]:
        layer: Any = kind()
        layer.x = draw.reals()
        setattr(layer, kept, draw.reals())
        return [layer.backward(draw.reals())]

    return run


def noise(draw: Draw) -> list[Any]:
    layer, found = xn.GaussianNoise(0.3), []
    layer.set_seed(draw.rows, 3)
    layer.set_sample_counter(2**64 - draw.rows)
    for _ in range(2):
        found += [layer.forward(draw.reals(), training=True).copy()]
    return found


def normalising(kind: Callable[[int], Layer]) -> Callable[[Draw], list[Any]]:
    """Two steps of training; of values that are not special, and rows and columns that differ."""

    def run(draw: Draw) -> list[Any]:
        layer: Any = kind(draw.width)
        network = Sequential([layer], backend=draw.backend, dtype=draw.dtype)
        found = [network.flat_parameters, network.flat_gradients, network.flat_buffers]
        network.flat_parameters[:] = draw.reals(network.flat_parameters.size)
        for _ in range(2):
            x, dy = draw.reals(), draw.reals()
            y = layer.forward(x, training=True).copy()
            found += [y, layer.normal.copy(), layer.scale.copy(), layer.backward(dy).copy()]
        return [array for array in found if array.size]

    return run


def dropout(rate: float) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        layer, found = xn.Dropout(rate), []
        layer.set_seed(draw.rows, 3)
        layer.set_sample_counter(2**64 - draw.rows)
        for _ in range(2):
            y = layer.forward(draw.reals(), training=True)
            found += [y.copy(), layer.mask.copy(), layer._counters.copy()]
        return found

    return run


def loss(smoothing: float, labels: str = "int64") -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        made = SoftmaxCrossEntropy(smoothing)
        value = made.forward(draw.reals(), draw.labels(labels))
        return [value, made.p, made.backward().copy(), made.backward(0.3)]

    return run


def of_many_rows(run: Callable[[Draw], list[Any]]) -> Callable[[Draw], list[Any]]:
    """More rows than one block of `cross_entropy` takes."""

    def run_with_more(draw: Draw) -> list[Any]:
        draw.rows += 512
        return run(draw)

    return run_with_more


def losses_added(draw: Draw) -> list[Any]:
    metric = MeanLoss(draw.backend)
    for samples in (1, 60_000, draw.rows):
        metric.update(draw.reals(1).reshape(()), samples)
    return [metric.total]


def running(labels: str) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        network = Sequential([xn.Linear(draw.width, draw.width)], backend=draw.backend)
        state: Any = SimpleNamespace(network=network)
        made = RunningMetrics(state, SoftmaxCrossEntropy(), None, None, None, _no_evaluation)
        for _ in range(2):
            made.update(draw.reals(1).reshape(()), draw.reals(), draw.labels(labels))
        return [made.mean.total, made.accuracy.hits]

    return run


def _no_evaluation(data: Any, loss: Any) -> Any:
    raise AssertionError("nothing is evaluated")


def hits(dtype: str) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        metric = Accuracy(draw.backend)
        for _ in range(2):
            logits = draw.reals()
            logits[:, -1:] = logits[:, :1]  # a tie
            metric.update(logits, draw.labels(dtype))
        return [metric.hits]

    return run


def updates(make: Callable[[], Any]) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        optimizer, values = make(), draw.reals(draw.rows * draw.width)
        for _ in range(3):
            optimizer.step(values, draw.reals(len(values)), decay_size=values.size)
        return [values, *optimizer.state.values()]

    return run


def batches(
    dtype: str, scale: float, shift: float, index: str, targets: str = "int64", width: int = 0
) -> Callable[[Draw], list[Any]]:
    """`width`: of a target, 0 for labels."""

    def run(draw: Draw) -> list[Any]:
        rows = draw.rng.integers(0, 256, (draw.rows + 3, draw.width)).astype(dtype)
        shape = (len(rows), width) if width else len(rows)
        held = xn.DeviceData(
            rows,
            draw.rng.integers(0, 100, shape).astype(targets),
            backend=draw.backend,
            dtype=draw.dtype,
            normalisation=Normalisation(scale, shift),
        )
        order = draw.rng.integers(0, len(rows), draw.rows).astype(index)
        return [*held.batch(draw.backend.asarray(order))]

    return run


def windows(
    size: tuple[int, int], kernel: Any, groups: int = 1, channels: int = 0, **settings: Any
) -> Callable[[Draw], list[Any]]:
    """What `Conv2d` gathers from images of this size, and the sum of what it has for each entry.

    `channels`: of a group, if not as many as the draw is wide.
    """

    def run(draw: Draw) -> list[Any]:
        layer, xp = xn.Conv2d(groups, kernel, groups=groups, **settings), draw.backend.xp
        own, numbers = channels or min(draw.width, WIDEST), layer.windows.numbers()
        x = draw.reals(min(draw.rows, MOST_IMAGES), *size, groups * own)
        outputs = len(x), *layer.windows.output_size(layer, x.shape[1:])
        entries, by_entry = numbers[:2], x.shape[3] == 1
        axes = (*entries, *outputs) if by_entry else (*outputs, *entries)
        columns, dx = xp.empty((groups, *axes, own), x.dtype), xp.empty(x.shape, x.dtype)
        gather_windows(xp, x, numbers, by_entry, columns, workspace=Workspace())
        gradients = draw.reals(math.prod(entries), groups, *outputs, own)
        add_entries(xp, gradients, numbers, dx, workspace=Workspace())
        return [columns, dx]

    return run


def pooling(
    make: Callable[[], Any], size: tuple[int, int], channels: int = 0
) -> Callable[[Draw], list[Any]]:
    """Of images of this size, half of them with many equal values."""

    def run(draw: Draw) -> list[Any]:
        layer, xp = make(), draw.backend.xp
        shape = min(draw.rows, MOST_IMAGES), *size, channels or min(draw.width, WIDEST)
        x = draw.reals(*shape)
        xp.rint(x[::2], out=x[::2])
        y = layer.forward(x, training=True)
        # Whether 0 or -0 is the larger, NumPy leaves to the processor.
        found = [xp.add(y, 0.0), layer.backward(draw.reals(*y.shape)).copy()]
        return [*found, layer.chosen] if isinstance(layer, xn.MaxPool2d) else found

    return run


MOST_IMAGES, WIDEST = 60, 30
"""The most images and channels: more entries of windows than there are threads in a launch."""


def sparse(share: float, outputs: int = 6) -> Callable[[Draw], list[Any]]:
    """Both products of sparse rows with a `share` of entries, at least one."""

    def run(draw: Draw) -> list[Any]:
        rows = cases.sparse_rows(draw.rng, draw.rows, draw.width, share).astype(draw.dtype)
        xp = draw.backend.xp
        y, dw = (xp.empty((count, outputs), draw.dtype) for count in rows.shape)
        multiply(rows.by_row, draw.reals(draw.width, outputs), y, Workspace())
        multiply(rows.by_column, draw.reals(draw.rows, outputs), dw, Workspace())
        return [y, dw]

    return run


WINDOWS = {
    "windows": windows((7, 6), 3),
    "windows padded": windows((5, 8), (3, 2), padding=(1, 2)),
    "windows strided": windows((9, 8), 3, stride=(2, 3), padding=(2, 1), dilation=(1, 2)),
    "windows in the border": windows((2, 3), 2, stride=(1, 2), padding=(3, 4), dilation=(3, 1)),
    "windows in groups": windows((6, 5), (2, 3), 3, stride=(1, 2), padding=1),
    "windows depthwise": windows((6, 5), 3, 7, 1, padding=1),
    "windows of one channel": windows((7, 6), (3, 2), 1, 1),
    "windows of one channel strided": windows(
        (5, 9), (2, 3), 1, 1, stride=(1, 2), padding=(2, 3), dilation=(3, 2)
    ),
}
POOLS = {
    "pool cut off": (lambda kind: kind((2, 3)), (5, 7)),
    "pool overlapping": (lambda kind: kind(3, 2, 1), (7, 6)),
    "pool of every pixel": (lambda kind: kind((3, 2), 1, (1, 1)), (4, 5)),
    "pool strided": (lambda kind: kind(2, (3, 5), (1, 0)), (7, 8)),
}


CASES = [
    Case("relu", {"relu", "relu_backward"}, activation(xn.ReLU)),
    Case("leaky relu", {"leaky_relu_backward"}, activation(lambda: xn.LeakyReLU(0.3))),
    Case("leaky relu 0", {"leaky_relu_backward"}, activation(lambda: xn.LeakyReLU(0))),
    Case("tanh backward", {"tanh_backward"}, backward(xn.Tanh, "y")),
    Case("sigmoid", {"sigmoid_forward", "sigmoid_backward"}, activation(xn.Sigmoid), exact=False),
    Case("sigmoid backward", {"sigmoid_backward"}, backward(xn.Sigmoid, "y")),
    Case("gelu", {"gelu", "gelu_backward"}, activation(xn.GELU), exact=False),
    Case("gelu backward", {"gelu_backward"}, backward(xn.GELU, "t")),
    *(
        Case(
            f"loss {smoothing} {labels}",
            {"cross_entropy", "softmax_cross_entropy_backward"},
            loss(smoothing, labels),
            exact=False,
        )
        for smoothing, labels in ((0.0, "int64"), (0.1, "int32"), (0.5, "uint8"))
    ),
    Case(
        "loss of many rows",
        {"cross_entropy", "softmax_cross_entropy_backward"},
        of_many_rows(loss(0.1)),
        exact=False,
    ),
    Case("softmax", {"softmax_forward", "softmax_backward"}, activation(xn.Softmax), exact=False),
    Case("softmax backward", {"softmax_backward"}, backward(xn.Softmax, "y"), exact=False),
    Case("noise", {"gaussian_noise"}, noise, exact=False),
    Case(
        "batch norm",
        {"batch_norm", "batch_norm_backward"},
        normalising(lambda width: xn.BatchNorm(width, momentum=0.3, epsilon=1e-3)),
        exact=False,
        divides=True,
    ),
    Case(
        "layer norm",
        {"layer_norm", "layer_norm_backward"},
        normalising(lambda width: xn.LayerNorm(width, epsilon=1e-3)),
        exact=False,
        divides=True,
    ),
    Case("mean loss", {"add_loss"}, losses_added),
    *(Case(f"running {t}", {"add_loss_and_hits"}, running(t)) for t in ("int64", "uint8")),
    *(Case(f"hits {t}", {"count_hits"}, hits(t)) for t in ("int64", "int32", "uint8")),
    Case("SGD", {"descend"}, updates(lambda: xn.SGD(0.1))),
    Case("SGD decay", {"descend"}, updates(lambda: xn.SGD(0.1, weight_decay=0.1))),
    Case("momentum", {"descend_with_momentum"}, updates(lambda: xn.SGD(0.1, momentum=0.9))),
    Case(
        "nesterov",
        {"descend_with_momentum"},
        updates(lambda: xn.SGD(0.1, momentum=0.7, nesterov=True)),
    ),
    Case("RMSprop", {"rmsprop"}, updates(lambda: xn.RMSprop(0.1))),
    Case(
        "RMSprop momentum",
        {"rmsprop_with_momentum"},
        updates(lambda: xn.RMSprop(0.1, decay_rate=0.9, momentum=0.7)),
    ),
    # Whole numbers are numbers too.
    Case("RMSprop whole", {"rmsprop"}, updates(lambda: xn.RMSprop(1, decay_rate=0, epsilon=1))),
    Case("Adam", {"adam"}, updates(lambda: xn.Adam(0.01))),
    Case("Adam whole", {"adam"}, updates(lambda: xn.Adam(1, beta1=0, beta2=0, epsilon=1))),
    Case("AdamW", {"adam"}, updates(lambda: xn.AdamW(0.01, weight_decay=0.1))),
    *(Case(f"dropout {rate}", {"dropout"}, dropout(rate)) for rate in (0.3, 0.0, 1 - 1e-12)),
    Case("pixels", {"gather_batch"}, batches("uint8", 1 / 255, 0.0, "int64")),
    Case("pixels shifted", {"gather_batch"}, batches("uint8", 1 / 255, -0.25, "int32", "uint8")),
    Case("float32", {"gather_batch"}, batches("float32", 2.5, 0.0, "int64", "int32")),
    Case("float64", {"gather_batch"}, batches("float64", -1.0, 1.0, "int32", "float64")),
    Case("values", {"gather_batch"}, batches("uint8", 0.5, 0.0, "int64", "float32", 3)),
    *(Case(f"sparse {share}", {"weighted_sums"}, sparse(share)) for share in (0, 0.1, 0.7)),
    Case("sparse of one output", {"weighted_sums"}, sparse(0.3, 1)),
    *(Case(name, {"gather_windows", "add_entries"}, run) for name, run in WINDOWS.items()),
    *(
        Case(
            f"{id} {kind.__name__} {channels}",
            {name, f"{name}_backward"},
            pooling(partial(make, kind), size, channels),
        )
        for name, kind in (("max_pool", xn.MaxPool2d), ("average_pool", xn.AveragePool2d))
        for id, (make, size) in POOLS.items()
        for channels in ([0, 1] if id == "pool overlapping" else [0])
    ),
]

EXACT = [case for case in CASES if case.exact]
ROUNDED = [case for case in CASES if not (case.exact or case.divides)]
DIVIDING = [case for case in CASES if case.divides]
every = pytest.mark.parametrize("case", **cases.by_id(CASES))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def host(arrays: list[Any]) -> list[np.ndarray]:
    return [array.get() for array in arrays]


def formula(case: Case, draw: Draw) -> list[np.ndarray]:
    return host(case.run(draw))


def by_kernel(case: Case, draw: Draw, *, falling: bool = False) -> list[np.ndarray]:
    with in_use(draw.backend, falling=falling) as names:
        found = case.run(draw)
    assert names == case.kernels
    return host(found)


def bits(array: np.ndarray) -> tuple[Any, ...]:
    """Shape, dtype and bytes, a NaN being a NaN."""
    array = np.array(array)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.shape, array.dtype, array.tobytes()


seeds, rows, widths = st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 20)


@pytest.mark.parametrize("case", **cases.by_id(EXACT))
@dtypes
@settings(max_examples=15)
@given(seed=seeds, rows=rows, width=widths, specials=st.booleans())
@example(seed=0, rows=1, width=1, specials=False)
@example(seed=1, rows=1, width=1, specials=True)
@example(seed=2, rows=300, width=300, specials=True)
def test_a_kernel_gives_the_bits_of_its_formula(
    gpu: Backend, case: Case, dtype: str, seed: int, rows: int, width: int, specials: bool
) -> None:
    options = dtype, seed, rows, width, specials
    expected = formula(case, Draw(gpu, *options))
    found = by_kernel(case, Draw(gpu, *options))
    assert list(map(bits, found)) == list(map(bits, expected))


@pytest.mark.parametrize("case", **cases.by_id([case for case in ROUNDED if case.id != "gelu"]))
@dtypes
@settings(max_examples=15)
@given(seed=seeds, rows=rows, width=widths, power=st.integers(-3, 4))
@example(seed=0, rows=1, width=1, power=0)
@example(seed=2, rows=1500, width=10, power=1)
@example(seed=3, rows=3, width=200, power=4)
def test_exp_log_tanh_and_sums_differ_by_rounding(
    gpu: Backend, case: Case, dtype: str, seed: int, rows: int, width: int, power: int
) -> None:
    """Inputs up to ±1e4 and more, which `exp` alone would not survive; the truth is float64's."""

    class Scaled(Draw):
        def reals(self, *shape: int) -> Any:
            scaled = super().reals(*shape).get().astype(np.float32) * np.float32(10.0**power)
            return self.backend.asarray(scaled.astype(self.dtype))

    truth = formula(case, Scaled(gpu, "float64", seed, rows, width))
    found = by_kernel(case, Scaled(gpu, dtype, seed, rows, width))
    unit = float(np.finfo(dtype).eps)
    for array, expected in zip(found, truth, strict=True):
        assert array.dtype == dtype
        # What is lost where numbers as large as the inputs are subtracted, or multiplied.
        size = max(float(np.abs(expected).max()), 10.0**power, 1.0)
        assert np.abs(array - expected).max() <= 16 * unit * size


def gelu_bounds(x: np.ndarray, dy: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """By how much `y` and `dx` of GELU may differ from the truth, each element, in `dtype`.

    With `u = s x (1 + c x²)`, `t = tanh u`: `y = ½ x (1 + t)`, `dx = ½ dy (x p (1 − t²) + t + 1)`,
    `p = s (1 + 3 c x²)`. An operation, and a constant, is off by one unit of rounding, `tanh` by 2
    units in the last place. What is large is the error of `1 − t²`, twice that of `t`, times
    `x p`, which is 21 at `u = 10`, where NumPy's float32 `tanh` becomes 1.
    """
    c, s = 0.044715, math.sqrt(2 / math.pi)
    unit = float(np.finfo(dtype).eps) / 2
    u = s * x * (1 + c * x * x)
    t, xp = np.tanh(u), np.abs(x) * s * (1 + 3 * c * x * x)
    one_less = 1 / np.cosh(np.minimum(np.abs(u), 300)) ** 2  # 1 − t²
    # u: 5 operations and 2 constants, whose signs agree; the slope of tanh falls with |u|.
    slope = 1 / np.cosh(np.minimum(np.abs(u) * (1 - 8 * unit), 300)) ** 2
    of_t = 8 * unit * np.abs(u) * slope + 2 * unit * 2 * np.abs(t)
    of_square = 2 * np.abs(t) * of_t + of_t**2 + 2 * unit
    # From here on tanh is 1 in `dtype`, and 1 − t² is 0, without any rounding.
    is_one = np.abs(u) > {"float32": 10, "float64": 20}[dtype]
    of_t = np.where(is_one, np.maximum(one_less, unit), of_t)
    of_square = np.where(is_one, one_less, of_square)
    of_y = np.abs(x) / 2 * (of_t + 6 * unit)
    product = xp * one_less
    of_dx = xp * of_square * (1 + 9 * unit) + 9 * unit * product + of_t + 4 * unit * (product + 2)
    return of_y, np.abs(dy) / 2 * of_dx * (1 + 4 * unit)


@dtypes
@settings(max_examples=30)
@given(seed=seeds, rows=rows, width=widths, power=st.integers(-3, 4))
@example(seed=49, rows=24, width=19, power=1)
@example(seed=0, rows=40, width=20, power=0)
@example(seed=3, rows=3, width=200, power=4)
def test_gelu_differs_by_rounding(
    gpu: Backend, dtype: str, seed: int, rows: int, width: int, power: int
) -> None:
    rng = np.random.default_rng(seed)
    x, dy = (10.0**power * 2 * rng.standard_normal((2, rows, width))).astype(np.float32)
    bounds = gelu_bounds(x.astype(float), dy.astype(float), dtype)
    exact = gelu_bounds(x.astype(float), dy.astype(float), "float64")

    def run(dtype: str) -> list[np.ndarray]:
        layer = xn.GELU()
        y = layer.forward(gpu.asarray(x.astype(dtype)), training=True).copy()
        return host([y, layer.backward(gpu.asarray(dy.astype(dtype)))])

    truth, formula = run("float64"), run(dtype)
    with in_use(gpu) as names:
        kernel = run(dtype)
    assert names == {"gelu", "gelu_backward"}
    for found in (formula, kernel):
        for array, expected, bound, of_truth in zip(found, truth, bounds, exact, strict=True):
            assert array.dtype == dtype
            # A number near 0 may become denormal, and 0.
            tiny = np.finfo(dtype).tiny
            assert (np.abs(array - expected) <= bound + of_truth + tiny).all()


@pytest.mark.parametrize("case", **cases.by_id(DIVIDING))
@dtypes
@settings(max_examples=15)
@given(seed=seeds, rows=st.integers(2, 40), width=widths)
@example(seed=0, rows=2, width=1)
@example(seed=1, rows=300, width=2)
@example(seed=2, rows=2, width=300)
def test_what_is_normalised_differs_by_rounding(
    gpu: Backend, case: Case, dtype: str, seed: int, rows: int, width: int
) -> None:
    expected = formula(case, Draw(gpu, dtype, seed, rows, width))
    found = by_kernel(case, Draw(gpu, dtype, seed, rows, width))
    unit = float(np.finfo(dtype).eps)
    for array, other in zip(found, expected, strict=True):
        assert array.dtype == dtype
        # Sums of two orders, and the largest 1 / deviation there can be, with ε = 1e-3.
        assert np.abs(array - other).max() <= 1000 * unit * max(np.abs(other).max(), 1.0)


@pytest.mark.parametrize("case", **cases.by_id(DIVIDING))
def test_what_is_no_number_stays_in_its_row_or_column(gpu: Backend, case: Case) -> None:
    layer: Any = {"batch norm": xn.BatchNorm, "layer norm": xn.LayerNorm}[case.id](5)
    Sequential([layer], backend=gpu)
    x = Draw(gpu, "float32").reals()
    x[3:4, 2:3] = math.nan
    with in_use(gpu) as names:
        y = np.isnan(layer.forward(x, training=True).get())
    assert names
    own = y[:, 2] if case.id == "batch norm" else y[3]
    assert own.all()
    assert y.sum() == own.size


@pytest.mark.parametrize("case", **cases.by_id(ROUNDED))
@dtypes
def test_special_values_go_the_way_of_the_formula(gpu: Backend, case: Case, dtype: str) -> None:
    for seed in range(20):
        expected = formula(case, Draw(gpu, dtype, seed, 6, 4, specials=True))
        found = by_kernel(case, Draw(gpu, dtype, seed, 6, 4, specials=True))
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


@every
@dtypes
@pytest.mark.parametrize("rows", [1, 7, 1500])
def test_the_order_of_blocks_and_threads_makes_no_difference(
    case: Case, dtype: str, rows: int
) -> None:
    # Of those whose threads wait for each other, the CPU runs fewer, and none trains on one row.
    rows = max(2, min(rows, 70)) if case.divides or "softmax" in case.id else rows
    one, other = (
        by_kernel(case, Draw(DOUBLE, dtype, rows, rows, 10), falling=falling) for falling in (0, 1)
    )
    assert list(map(bits, one)) == list(map(bits, other))


@pytest.mark.slow
def test_kernels_of_the_cpu_leave_the_same() -> None:
    """numba's loop and the kernel, where both have one of the same name."""
    shared = own() & numba_names()
    for case in EXACT:
        if not case.kernels <= shared:
            continue
        for dtype in ("float32", "float64"):
            with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
                patch.setattr(SETTINGS, "kernels_enabled", True)
                stack.enter_context(dispatch.use_kernels())
                stack.enter_context(np.errstate(all="ignore"))
                cpu = [np.array(a) for a in case.run(Draw(Backend("cpu"), dtype, specials=True))]
            cuda = by_kernel(case, Draw(DOUBLE, dtype, specials=True))
            assert list(map(bits, cuda)) == list(map(bits, cpu)), case.id


@pytest.mark.parametrize("rows", [1, 64, 512, 513, 41_000])
def test_a_large_batch_is_spread_over_blocks_and_a_small_one_is_one_launch(rows: int) -> None:
    launches: list[tuple[str, Any]] = []

    def note(name: str, types: Any, over: tuple[int, int], *arguments: Any) -> Callable[[], None]:
        launches.append((name, over))
        return lambda: None

    logits = DOUBLE.xp.zeros((rows, 10), "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_kernels, "launch", note)
        with in_use(DOUBLE):
            SoftmaxCrossEntropy().forward(logits, DOUBLE.xp.zeros(rows, "int64"))
    (name, (blocks, threads)), *rest = launches
    assert name == "cross_entropy"
    if rows <= 512:
        assert blocks == 1
        assert rest == []
    else:
        assert blocks == math.ceil(rows / threads)
        assert [name for name, _ in rest] == ["mean_of_sums"]


def test_pixels_are_multiplied_by_one_float32(gpu: Backend) -> None:
    """`x · float32(1/255)`, of all 256 levels and on either way, not `x / 255`."""
    levels = np.arange(256, dtype=np.uint8).reshape(4, 64)
    data = xn.DeviceData(
        levels,
        np.arange(4),
        backend=gpu,
        dtype="float32",
        normalisation=Normalisation(1 / 255, 0.0),
    )
    expected = levels.astype(np.float32) * np.float32(1 / 255)
    order = gpu.asarray(np.arange(4))
    assert data.batch(order)[0].get().tobytes() == expected.tobytes()
    with in_use(gpu) as names:
        assert data.batch(order)[0].get().tobytes() == expected.tobytes()
    assert names == {"gather_batch"}


# ---- two calls of a recorded step in one kernel ----


def recorded(backend: Backend, step: Callable[[], Any]) -> tuple[tuple[Any, ...], list[str]]:
    """The operations of a recorded `step`, and what replaying them launches on the double."""
    program = recording.record(backend.xp, step)
    strict_cupy.ledger.reset()
    for op in program:
        op.call()
    return program, list(strict_cupy.ledger.operations.elements())


@dtypes
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (9, 5), (40, 300), (3000, 3)])
def test_a_bias_and_the_relu_after_it_are_one_launch_to_the_same_bits(
    gpu: Backend, dtype: str, rows: int, width: int, falling: bool
) -> None:
    """`add_relu` is the sum and the maximum of the layers' formulas; special values too."""
    draw = Draw(gpu, dtype, 3, rows, width, specials=True)
    network = Sequential([xn.Linear(2, width), xn.ReLU()], backend=gpu, dtype=dtype)
    linear, relu = network.layers
    linear.values["bias"][...] = draw.reals(width)
    x = draw.reals(rows, 2)

    def step() -> None:
        relu.forward(linear.forward(x, training=True), training=True)

    def found() -> list[Any]:
        y = linear.workspace.array(gpu.xp, "y", (rows, width), gpu.xp.dtype(dtype))
        return [y.get(), relu.y.get()]

    step()
    expected = found()
    with in_use(gpu, falling=falling):
        calls, launches = recorded(gpu, step)
    assert len(calls) == 2
    if gpu is DOUBLE:
        assert launches == ["dot", "add_relu"]
    assert list(map(bits, found())) == list(map(bits, expected))


@dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (9, 5), (40, 100), (600, 10)])
@pytest.mark.parametrize("falling", [False, True])
def test_a_loss_and_its_gradient_are_one_launch_to_the_bits_of_two(
    gpu: Backend, dtype: str, smoothing: float, rows: int, width: int, falling: bool
) -> None:
    draw = Draw(gpu, dtype, 4, rows, width, specials=rows == 40)
    logits, labels, made = draw.reals(), draw.labels("int32"), SoftmaxCrossEntropy(smoothing)

    def step() -> None:
        value = made.forward(logits, labels)
        found[:] = [value, made.p, made.backward(0.3)]

    found: list[Any] = []
    with in_use(gpu, falling=falling):
        step()
        expected = host(found)
        calls, launches = recorded(gpu, step)
    assert len(calls) == 1
    if gpu is DOUBLE:
        assert launches == ["cross_entropy_and_gradient"] + ["mean_of_sums"] * (rows > 512)
    assert list(map(bits, host(found))) == list(map(bits, expected))


def test_a_gradient_of_another_loss_is_not_fused(gpu: Backend) -> None:
    draw = Draw(gpu, "float32")
    logits, labels, other = draw.reals(), draw.labels(), draw.labels()
    one, two = SoftmaxCrossEntropy(), SoftmaxCrossEntropy()
    for made in (one, two):
        made.forward(logits, labels)
        made.backward()

    def of_another_loss() -> None:
        one.forward(logits, labels)
        two.backward()

    def of_other_labels() -> None:
        one.forward(logits, labels)
        one.labels = other
        one.backward()

    def of_another_smoothing() -> None:
        one.forward(logits, labels)
        one.label_smoothing = 0.5
        one.backward()

    with in_use(gpu):
        for step in (of_another_loss, of_other_labels, of_another_smoothing):
            one.label_smoothing = 0.0
            assert len(recorded(gpu, step)[0]) == 2


def test_what_is_no_bias_with_its_relu_is_not_fused(gpu: Backend) -> None:
    xp, reals = gpu.xp, Draw(gpu, "float32").reals
    y, r, other, bias = reals(), reals(), reals(), reals(5)

    def relu_of(x: Any) -> None:
        assert dispatch.run_kernel("relu", (x, r))

    def adding(bias: Any, out: Any, x: Any, **options: Any) -> Callable[[], None]:
        def step() -> None:
            array_module(y).add(y, bias, out=out, **options)
            relu_of(x)

        return step

    with in_use(gpu):
        assert len(recorded(gpu, adding(bias, y, y))[0]) == 1
        for step in (
            adding(bias, y, other),
            adding(bias, other, other),
            adding(other, y, y),
            adding(reals(9, 1), y, y),
            adding(reals(10)[::2], y, y),
            adding(bias.astype("int8"), y, y),
            adding(1.0, y, y),
            adding(bias, y, y, dtype=xp.float32),
        ):
            assert len(recorded(gpu, step)[0]) == 2
    assert len(recording.record(xp, lambda: array_module(y).add(y, bias, out=y))) == 1


# ---- nothing goes untested ----


FUSED = {"add_relu", "cross_entropy_and_gradient"}
"""The kernels of two calls of a recorded step, which have tests of their own below."""


def own() -> set[str]:
    """The names of the CUDA kernels of one formula."""
    return set(cuda_kernels.KERNELS) - FUSED


def numba_names() -> set[str]:
    from xpnet.accel import numba_kernels

    return set(numba_kernels.KERNELS)


def test_every_kernel_has_a_formula_and_a_case() -> None:
    launching = {name for name, item in vars(cuda_kernels).items() if hasattr(item, "launches")}
    assert launching == own() | FUSED
    assert set(fusion.PAIRS) == FUSED
    assert own() <= set(dispatch.FORMULAS), "no formula has the name"
    assert own() == set().union(*(case.kernels for case in CASES)), "add a case to CASES"


def launched(case: Case) -> set[str]:
    """The kernels that `case` comes to."""
    strict_cupy.ledger.reset()
    by_kernel(case, Draw(DOUBLE, "float32"))
    return set(strict_cupy.ledger.operations) & set(cuda_on_cpu.declared())


def test_every_kernel_is_launched_by_a_case() -> None:
    assert set().union(*map(launched, CASES)) == set(cuda_on_cpu.declared()) - FUSED


def test_a_kernel_without_a_formula_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = cuda_launch.source() + "\n__global__ void stray(Size* x) { x[0] = 1; }\n"
    monkeypatch.setattr(cuda_launch, "source", lambda: text)
    found = cuda_on_cpu.declared.__wrapped__()
    assert set(found) - set().union(*map(launched, CASES)) - FUSED == {"stray"}


def test_kernel_and_formula_take_the_same_arguments() -> None:
    for name in own():
        expected = list(inspect.signature(dispatch.FORMULAS[name]).parameters.values())
        positional = [p.name for p in expected if p.kind is not p.KEYWORD_ONLY]
        assert positional == ["xp", *inspect.signature(cuda_kernels.KERNELS[name]).parameters]


# ---- the harness notices what it is there for ----


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], cuda_on_cpu.Kernel]:
    """`build(body)`: the kernel `probe(Size* x, const T* y, Size size)`, ready to be launched."""

    def make(body: str) -> cuda_on_cpu.Kernel:
        head = "template <typename T>\n__global__ void probe(Size* x, const T* y, Size size)"
        source = f"{cuda_launch.source()}\n{head} {{ {body} }}\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_launch, "source", lambda: source)
            found = {"probe": cuda_on_cpu.declared.__wrapped__()["probe"]}
            patch.setattr(cuda_on_cpu, "declared", lambda: found)
            library = cuda_on_cpu.build(tmp_path, cuda_on_cpu.compiler(), cuda_on_cpu.program())
            patch.setattr(cuda_on_cpu, "_library", lambda: library)
            return cuda_on_cpu.Kernel("probe<float>")

    return make


def numbers(*values: float, dtype: str = "int64") -> Any:
    return DOUBLE.asarray(np.array(values, dtype))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("if (threadIdx.x == 0) __syncthreads(); x[0] = 1;", "a barrier that not all"),
        ("if (threadIdx.x < 2) x[size] = 1;", "probe: x was written to beyond its ends"),
        ("x[-1] = 1;", "probe: x was written to beyond its ends"),
        ("*(T*)y = 2;", "probe: y is const and was written to"),
    ],
)
def test_what_a_card_would_not_notice_is_noticed(build: Any, body: str, complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        build(body)((1,), (4,), (numbers(0, 0, 0, 0), numbers(1, dtype="float32"), 4))


def test_what_is_read_outside_of_an_array_is_no_number(build: Any) -> None:
    x = numbers(7, 7)
    kernel = build("x[0] = y[0] != y[0]; x[1] = y[size] != y[size];")
    kernel((1,), (1,), (x, numbers(5, dtype="float32"), 1))
    assert x.get().tolist() == [0, 1]


def test_a_barrier_keeps_threads_together(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes what its neighbour wrote; without the barrier, that depends on their order."""
    body = "__shared__ Size part[9]; part[threadIdx.x] = size + threadIdx.x; {} "
    body += "x[threadIdx.x] = part[(threadIdx.x + 1) % blockDim.x];"
    found = {}
    for barriers, text in ((False, ""), (True, "__syncthreads();")):
        kernel = build(body.format(text))
        for falling in (False, True):
            monkeypatch.setattr(cuda_on_cpu.Kernel, "falling", falling)
            x = numbers(0, 0, 0)
            kernel((1,), (3,), (x, numbers(0, dtype="float32"), 10))
            found[barriers, falling] = x.get().tolist()
    assert found[False, False] != found[False, True]
    assert found[True, False] == found[True, True] == [11, 12, 10]


@pytest.mark.parametrize("function", ["sum_of_block", "largest_of_block"])
@pytest.mark.parametrize("falling", [False, True])
def test_all_threads_have_the_result_of_a_block(
    build: Any, function: str, falling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: the second call must not write before all threads have read the first result."""
    monkeypatch.setattr(cuda_on_cpu.Kernel, "falling", falling)
    body = f"Size one = {function}(size + threadIdx.x), other = {function}(-one - threadIdx.x); "
    x = numbers(*[0] * 64)
    kernel = build(body + "x[threadIdx.x] = one; x[blockDim.x + threadIdx.x] = other;")
    kernel((1,), (32,), (x, numbers(0, dtype="float32"), 100))
    combine = sum if function == "sum_of_block" else max
    one = combine(100 + thread for thread in range(32))
    other = combine(-one - thread for thread in range(32))
    assert x.get().tolist() == [one] * 32 + [other] * 32


def test_arguments_are_those_that_the_kernel_declares(build: Any) -> None:
    kernel, x, y = build("x[0] = size;"), numbers(0), numbers(0, dtype="float32")
    kernel((1,), (1,), (x, y, 3))
    assert x.get().tolist() == [3]
    wrong: list[tuple[Any, ...]] = [(y, y, 3), (x, x, 3), (x, y, 3.0), (x, y, np.float32(3))]
    wrong += [(x, y), (x, y, 3, 3), (x, y.get(), 3), (x, y, True)]
    for arguments in wrong:
        with pytest.raises(TypeError, match="probe"):
            kernel((1,), (1,), arguments)
    apart = numbers(0, 0)[::2]
    with pytest.raises(TypeError, match="contiguous"):
        kernel((1,), (1,), (numbers(0, 0, 0)[::2], y, 3))
    assert apart.flags.c_contiguous
    # More than 256 threads may want more registers than a block has, without __launch_bounds__.
    for blocks, threads in ((0, 1), (1, 0), (1, 257), (2**31, 1)):
        with pytest.raises(ValueError, match="cannot be launched"):
            kernel((blocks,), (threads,), (x, y, 3))
    both = numbers(0, 0, dtype="float32")
    with pytest.raises(ValueError, match="share memory"):
        kernel((1,), (1,), (both.view("int64"), both, 3))


def test_without_a_compiler_it_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_on_cpu.shutil, "which", lambda _: None)
    monkeypatch.setattr(cuda_on_cpu, "find_spec", lambda _: object())
    assert cuda_on_cpu.compiler()[1:4] == ["-m", "ziglang", "cc"]
    monkeypatch.setattr(cuda_on_cpu, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="install g\\+\\+ or clang, or pip install ziglang"):
        cuda_on_cpu.compiler()


# ---- NVRTC ----


OLDEST, *NEWER = compile_kernels.ARCHITECTURES


@pytest.mark.parametrize(
    "architecture", [OLDEST, *(pytest.param(one, marks=pytest.mark.slow) for one in NEWER)]
)
def test_every_kernel_compiles_for(architecture: str) -> None:
    wanted = cuda_on_cpu.expressions()
    assert len(wanted) > 50
    made = compile_kernels.compile_for(architecture, cuda_launch.source(), wanted)
    assert made.succeeded, made.log
    assert made.log == ""
    assert list(made.expressions) == wanted


@pytest.mark.parametrize(
    ("body", "succeeds"), [("int unused;", True), ("x[0] = y[0", False), ("x[0] = 1;", True)]
)
def test_an_error_and_a_warning_of_nvrtc_are_noticed(body: str, succeeds: bool) -> None:
    text = f"__global__ void probe(int* x) {{ {body} }}"
    made = compile_kernels.compile_for("sm_80", text, ["probe"])
    assert made.succeeded == succeeds
    assert bool(made.log) == (body != "x[0] = 1;")
    assert made.expressions == (("probe",) if succeeds else ())


def test_the_session_lists_every_kernel_and_architecture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without: list[str] = []

    def pretend(architecture: str, source: str, expressions: list[str]) -> Any:
        missing = architecture in without
        made = tuple(e for e in expressions if not (missing and e.startswith("adam")))
        return compile_kernels.Compiled(architecture, True, "", made)

    monkeypatch.setattr(compile_kernels, "compile_for", pretend)
    for code in (0, 1):
        assert compile_kernels.main() == code
        without.append("sm_90")
        out = capsys.readouterr().out
        for name in (*compile_kernels.ARCHITECTURES, *cuda_on_cpu.declared()):
            assert name in out


# ---- CuPy gets what it takes ----


def test_a_kernel_is_built_once_for_its_types_with_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = cupy.RawModule

    class RawModule:
        def __init__(self, **options: Any) -> None:
            real(**options)  # which builds nothing yet
            built.append(options)

        def get_function(self, name: str) -> str:
            return f"the kernel {name}"

    monkeypatch.setattr(cupy, "RawModule", RawModule)
    cuda_launch.kernel.cache_clear()
    try:
        for _ in range(2):
            assert cuda_launch.kernel("adam<float>") == "the kernel adam<float>"
        assert cuda_launch.kernel("adam<double>") == "the kernel adam<double>"
    finally:
        cuda_launch.kernel.cache_clear()
    names = [options["name_expressions"] for options in built]
    assert names == [("adam<float>",), ("adam<double>",)]
    assert all(
        o["options"] == cuda_launch.OPTIONS and o["code"] == cuda_launch.source() for o in built
    )


def test_the_text_is_ascii_and_in_the_package() -> None:
    """CuPy writes it to a file in the encoding of the terminal."""
    assert (PACKAGE / "accel" / "cuda_kernels.cu").read_bytes().isascii()


def test_cupy_is_not_loaded_until_a_kernel_is_built() -> None:
    script = "import sys; from xpnet.accel import cuda_kernels; print('cupy' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "False"


# ---- where they are chosen ----


def test_kernels_0_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_CUDA_MODULES", {strict_cupy.xp.__name__})
    for enabled in (True, False):
        monkeypatch.setattr(SETTINGS, "kernels_enabled", enabled)
        with dispatch.use_kernels(steps=1, xp=strict_cupy.xp):
            assert (SETTINGS.kernels is not None) == enabled
    assert SETTINGS.kernels is None


def test_the_double_has_none_of_its_own() -> None:
    with dispatch.use_kernels(xp=strict_cupy.xp):
        assert SETTINGS.kernels is None


def test_arrays_of_the_other_module_are_left_to_their_formula() -> None:
    with in_use(DOUBLE) as names:
        xn.SGD(0.1).step(np.ones(3), np.ones(3))
        assert names == set()
        xn.SGD(0.1).step(DOUBLE.xp.ones(3), DOUBLE.xp.ones(3))
    assert names == {"descend"}


def test_arrays_of_two_dtypes_are_left_to_the_formula(gpu: Backend) -> None:
    """As of data in float64 for a network in float32: a kernel would read half of each number."""
    values, gradients = (Draw(gpu, "float32").reals(45) for _ in range(2))
    scalars = xn.Adam().table(range(2), gpu, "float64")
    expected = values.copy()
    xn.Adam().step(expected, gradients, scalars=scalars[0])
    with in_use(gpu) as names:
        xn.Adam().step(values, gradients, scalars=scalars[0])
    assert names == set()
    assert bits(values.get()) == bits(expected.get())


@pytest.mark.parametrize("kind", [xn.ReLU, xn.LeakyReLU, xn.Tanh, xn.Sigmoid, xn.GELU])
def test_a_gradient_of_another_shape_is_refused(gpu: Backend, kind: Callable[[], Layer]) -> None:
    """As the formula refuses it: a kernel must not read beyond an array."""
    layer, ones = kind(), gpu.xp.ones
    with in_use(gpu):
        layer.forward(ones((4, 3)), training=True)
        for shape in ((5, 3), (3, 4), (12,)):
            with pytest.raises(ValueError, match=r"operand|result is"):
                layer.backward(ones(shape))


@pytest.mark.parametrize("kind", [xn.MaxPool2d, xn.AveragePool2d])
def test_a_gradient_of_images_of_another_shape_is_refused(gpu: Backend, kind: Any) -> None:
    layer, ones = kind(2, 1), gpu.xp.ones
    with in_use(gpu):
        layer.forward(ones((4, 5, 6, 3)), training=True)
        for shape in ((5, 4, 5, 3), (4, 5, 5, 3), (4, 4, 6, 3), (4, 4, 5, 2), (3, 4, 5, 3)):
            with pytest.raises(ValueError, match=r"operand|result is|broadcast"):
                layer.backward(ones(shape))


# ---- the budget of a step ----

MOST_FOR_A_LAYER = 3
MOST_FOR_AN_UPDATE = 2
FOR_THE_LOSS = {"cross_entropy_and_gradient": 1}
FOR_THE_MEANS = {"add_loss_and_hits": 1}
FOR_THE_BATCH = {"copyto": 2, "gather_batch": 1}
PRODUCTS = {"dot", "matmul"}
MORE_FOR = {"Conv2d in groups": 1, "Conv2d depthwise": 2, "Dropout2d": 1}
"""Cases that may launch more: products of groups are copied to where a single one would write."""


def launches(step: Callable[[], Any]) -> dict[str, int]:
    """What a step launches, products apart; it may neither wait, transfer nor allocate."""
    strict_cupy.ledger.reset()
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        step()
    operations = strict_cupy.ledger.operations
    return {name: count for name, count in operations.items() if name not in PRODUCTS}


@pytest.mark.parametrize("case", **cases.by_id(cases.LAYERS))
def test_a_layer_keeps_within_its_launches(case: Any) -> None:
    layer = case.make()
    Sequential(case.between(3, 2, layer), backend=DOUBLE)
    x = Draw(DOUBLE, "float32").reals(9, *case.shape)

    def step() -> None:
        layer.forward(x, training=True)
        layer.backward(dy)

    with in_use(DOUBLE):
        dy = layer.forward(x, training=True).copy()
        step()
        found = launches(step)
    # A block has the launches of the layers in it, and its own.
    most = MOST_FOR_A_LAYER * len(list(walk([layer]))) + MORE_FOR.get(case.id, 0)
    assert sum(found.values()) <= most, found


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("case", **cases.by_id(cases.OPTIMIZERS))
def test_an_update_keeps_within_its_launches(case: Any, weight_decay: float) -> None:
    optimizer = case.make(weight_decay=weight_decay)
    values, gradients = (Draw(DOUBLE, "float32").reals(45) for _ in range(2))
    scalars = optimizer.table(range(3), DOUBLE, "float32")
    with in_use(DOUBLE):
        optimizer.step(values, gradients, scalars=scalars[0], decay_size=9)
        found = launches(
            lambda: optimizer.step(values, gradients, scalars=scalars[1], decay_size=9)
        )
    assert 0 < sum(found.values()) <= 1 + bool(weight_decay) <= MOST_FOR_AN_UPDATE


def layers() -> list[Layer]:
    return [
        xn.Linear(12, 9),
        xn.ReLU(),
        xn.Dropout(0.2),
        xn.Linear(9, 7),
        xn.ReLU(),
        xn.Linear(7, 3),
    ]


def trained(
    backend: Backend, optimizer: Any, callbacks: tuple[xn.Callback, ...] = (), **options: Any
) -> tuple[Sequential, xn.History]:
    x = np.random.default_rng(5).integers(0, 256, (50, 12), np.uint8)
    network = Sequential(layers(), backend=backend, seed=1)
    data = xn.DeviceData(
        x,
        x[:, :3].argmax(axis=1),
        backend=backend,
        dtype="float32",
        normalisation=Normalisation(1 / 255, 0.0),
    )
    options = {"epochs": 4, "batch_size": 16} | options
    history = xn.fit(
        network, data, data, optimizer=optimizer, seed=2, callbacks=callbacks, **options
    )
    return network, history


class Steps(xn.Callback):
    """Counts what each step launches."""

    replayable = True

    def __init__(self) -> None:
        self.found: list[dict[str, int]] = []

    def on_epoch_begin(self, run: Any) -> None:
        strict_cupy.ledger.reset()

    def on_step_end(self, run: Any) -> None:
        self.found.append(dict(strict_cupy.ledger.operations))
        strict_cupy.ledger.reset()


UPDATES = {
    "SGD": (lambda: xn.SGD(0.1), {"descend": 1}),
    "momentum": (lambda: xn.SGD(0.1, momentum=0.9), {"descend_with_momentum": 1}),
    "RMSprop": (lambda: xn.RMSprop(0.01), {"rmsprop": 1}),
    "Adam": (lambda: xn.Adam(0.01), {"adam": 1}),
    "AdamW": (lambda: xn.AdamW(0.01), {"adam": 1, "multiply": 1}),
}
update = pytest.mark.parametrize(
    ("make", "of_update"), [pytest.param(*item, id=name) for name, item in UPDATES.items()]
)


@update
def test_a_step_of_fit_launches_no_more_than_its_budget(make: Any, of_update: Any) -> None:
    steps = Steps()
    with in_use(DOUBLE):
        trained(DOUBLE, make(), (steps,))
    # With the first step of an epoch go its order of samples and its numbers, with the last one
    # its record. Of the others one is recorded, as the layers launch it, and one replayed.
    steady = [steps.found[n] for n in (9, 10, 13, 14)]
    assert [found.get("asarray", 0) for found in steps.found[4:12]] == [2, 0, 0, 0] * 2
    single = {"add": 3, "relu": 2, "cross_entropy": 1, "softmax_cross_entropy_backward": 1}
    fused = {"add": 1, "add_relu": 2} | FOR_THE_LOSS
    for found, pairs in zip(steady, [single, fused] * 2, strict=True):
        within: dict[str, int] = pairs | {"relu_backward": 2}
        within |= {"dropout": 1, "advance": 1, "multiply": 1}
        for part in (FOR_THE_MEANS, FOR_THE_BATCH, of_update):
            for name, count in part.items():
                within[name] = within.get(name, 0) + count
        others = {name: count for name, count in found.items() if name not in PRODUCTS}
        assert others == within
        of_layers = sum(within.values()) - sum(
            sum(part.values()) for part in (FOR_THE_MEANS, FOR_THE_BATCH, of_update)
        )
        assert of_layers <= MOST_FOR_A_LAYER * len(layers())


def guarded(optimizer: Any = None, **options: Any) -> int:
    """Steady steps of a training in which nothing may move, wait or be allocated."""

    class Guard(xn.Callback):
        """From the third epoch on, nothing may move but before an epoch and at the very end."""

        def __init__(self) -> None:
            self.steps = 0

        def on_step_end(self, run: Any) -> None:
            is_steady = run.step in (9, 10, 11, 13, 14)
            self.steps += bool(is_steady)
            events = ("sync", "h2d", "d2h", "alloc") if is_steady else ()
            strict_cupy.ledger.forbidden = frozenset(events)

        def on_epoch_begin(self, run: Any) -> None:
            strict_cupy.ledger.forbidden = frozenset()

    guard = Guard()
    try:
        trained(DOUBLE, optimizer or xn.Adam(0.01), (guard,), log_every=100, **options)
    finally:
        strict_cupy.ledger.forbidden = frozenset()
    return guard.steps


@update
def test_a_steady_step_moves_nothing_and_waits_for_nothing(make: Any, of_update: Any) -> None:
    with in_use(DOUBLE):
        assert guarded(make()) == 5


@update
def test_training_with_kernels_is_training_with_formulas(make: Any, of_update: Any) -> None:
    expected, result = trained(DOUBLE, make())
    with in_use(DOUBLE) as names:
        found, history = trained(DOUBLE, make())
    assert {"cross_entropy", "gather_batch", "add_loss_and_hits", "count_hits"} <= names
    difference = found.flat_parameters.get() - expected.flat_parameters.get()
    assert np.linalg.norm(difference) <= 1e-5 * np.linalg.norm(expected.flat_parameters.get())
    for one, other in zip(history.records, result.records, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.val_accuracy == other.val_accuracy
    assert bits(found.layers[2].mask.get()) == bits(expected.layers[2].mask.get())


WEIGHTS = (np.arange(50) % 7 + 1.0).astype(np.float32)
EXTRAS: dict[str, tuple[Callable[[], dict[str, Any]], int]] = {
    "smoothing": (lambda: {"loss": xn.SoftmaxCrossEntropy(0.1)}, 0),
    "clip_norm": (lambda: {"clip_norm": 0.5}, 5),
    "l2": (lambda: {"l2": 0.1}, 4),
    "sample_weight": (lambda: {"sample_weight": WEIGHTS}, 14),
}
"""What else a step may be asked for, and how many launches that adds to it, products apart."""


@pytest.mark.parametrize("name", EXTRAS)
def test_what_else_a_step_is_asked_for_is_counted_too(name: str) -> None:
    make, more = EXTRAS[name]
    found = []
    for options in ({}, make()):
        steps = Steps()
        with in_use(DOUBLE):
            trained(DOUBLE, xn.Adam(0.01), (steps,), **options)
        steady = steps.found[9]
        found.append(sum(n for operation, n in steady.items() if operation not in PRODUCTS))
    assert found[1] - found[0] == more


@pytest.mark.parametrize("name", EXTRAS)
def test_nor_does_it_move_or_wait_or_allocate(name: str) -> None:
    with in_use(DOUBLE):
        assert guarded(**EXTRAS[name][0]()) == 5
