"""Compiled kernels: each computes its formula, and is used only in long training.

A kernel runs as xpnet runs it, by the layer, loss, optimizer, metric or batch that asks for it,
once with kernels in use and once without.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import strict_cupy
from hypothesis import example, given
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from scipy.sparse import csr_array
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import cuda_kernels, dispatch, fusion, numba_kernels, recording
from xpnet.accel.program import Op, run_op
from xpnet.backend import Backend, array_module, context
from xpnet.data import Normalisation
from xpnet.errors import DivergenceError
from xpnet.layers.activations import relu, softmax
from xpnet.layers.base import Layer
from xpnet.layers.convolution import add_entries, gather_windows
from xpnet.layers.sparse_products import multiply
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.losses.classification import shift_logits
from xpnet.metrics import Accuracy, MeanLoss
from xpnet.training.callbacks import TrainingState
from xpnet.workspace import Workspace

CPU = Backend("cpu")


@pytest.fixture(autouse=True)
def _enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says; how long is long enough, each test says itself."""
    monkeypatch.setattr(SETTINGS, "kernels_enabled", True)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Within the block, the names of the kernels that were run, in this thread or another."""
    names: list[str] = []
    run_kernel = dispatch.run_kernel

    def noting(name: str, arguments: tuple[Any, ...]) -> bool:
        done = run_kernel(name, arguments)
        names.extend([name] * done)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "run_kernel", noting)
        yield names


# Nothing goes untested

FUSED = {"add_relu"}
"""The kernels of two calls of a recorded step, which have tests of their own at the end."""


def kernels() -> set[str]:
    """The names of all kernels of one formula."""
    return set(numba_kernels.KERNELS) - FUSED


def test_every_kernel_has_a_formula_and_a_case_and_is_used_by_fit() -> None:
    compiled = {n for n, item in vars(numba_kernels).items() if isinstance(item, Dispatcher)}
    assert {name for name in compiled if not name.startswith("_")} == kernels() | FUSED
    assert kernels() <= set(dispatch.FORMULAS), "no formula has the name"
    assert kernels() == {name for case in CASES for name in case.kernels}, "add a case to CASES"
    assert kernels() == set().union(*(used for _, used in FITS)), "add a training to FITS"


def test_every_formula_has_a_kernel() -> None:
    assert set(dispatch.FORMULAS) == kernels() | set(cuda_kernels.KERNELS) - set(fusion.PAIRS)


def test_kernel_and_formula_take_the_same_arguments() -> None:
    for name in kernels():
        expected = list(inspect.signature(dispatch.FORMULAS[name]).parameters.values())
        positional = [p.name for p in expected if p.kind is not p.KEYWORD_ONLY]
        found = inspect.signature(numba_kernels.KERNELS[name].py_func).parameters
        assert positional == ["xp", *found], name


def test_two_formulas_of_one_name_are_refused() -> None:
    def relu(xp: Any) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="two accelerated formulas are called relu"):
        dispatch.accelerated(relu)


def test_a_kernel_without_a_case_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(numba_kernels.KERNELS, "stray", numba_kernels.descend)
    assert kernels() - {name for case in CASES for name in case.kernels} == {"stray"}


# Each against its formula

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-310, 3e38, -1e4, 1e4, 1.0]


class Draw:
    """Random arrays, the same for the same arguments; `specials`: with values of `SPECIAL`."""

    def __init__(
        self, seed: int, rows: int, width: int, dtype: str, specials: bool = False
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows, self.width, self.dtype, self.specials = rows, width, dtype, specials

    def reals(self, *shape: int) -> np.ndarray:
        """Normal draws, in float32's numbers whatever the dtype: `(rows, width)` or `shape`."""
        shape = shape or (self.rows, self.width)
        with np.errstate(all="ignore"):
            drawn = (2 * self.rng.standard_normal(shape)).astype(np.float32).astype(self.dtype)
            special = np.array(SPECIAL).astype(self.dtype)
        chosen = self.rng.choice(special, shape)
        return np.where(self.rng.random(shape) < 0.2 * self.specials, chosen, drawn)

    def labels(self, dtype: str = "int64") -> np.ndarray:
        """`(rows,)`."""
        return self.rng.integers(0, self.width, self.rows).astype(dtype)


@dataclass(frozen=True)
class Case:
    kernels: tuple[str, ...]
    run: Callable[[Draw], list[Any]]
    id: str


def activation(kind: Callable[[], Layer]) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        layer = kind()
        y = layer.forward(draw.reals(), training=True)
        return [y, *(layer.backward(draw.reals()) for _ in range(2))]

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


def noise(draw: Draw) -> list[Any]:
    layer, found = xn.GaussianNoise(0.3), []
    layer.set_seed(draw.rows, 3)
    layer.set_sample_counter(2**64 - draw.rows)
    for _ in range(2):
        y = layer.forward(draw.reals(), training=True)
        found += [y.copy(), layer._counters.copy()]
    return found


def gradient_of_the_loss(smoothing: float) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        loss, logits = SoftmaxCrossEntropy(smoothing), draw.reals()
        loss.forward(logits, draw.labels())
        # Not its own, which may differ in the last digit.
        total = np.empty((1, draw.rows), draw.dtype)
        softmax(np, logits.T, axis=0, shifted=loss.p, total=total, out=loss.p)
        return [loss.backward().copy(), loss.backward(0.3)]

    return run


def shifted(draw: Draw) -> list[Any]:
    logits = draw.reals()
    found = np.empty((draw.width, draw.rows), draw.dtype)
    shift_logits(np, logits, found, workspace=Workspace())
    # Whether 0 or -0 is the larger, NumPy leaves to the processor.
    return [found + 0.0]


def losses_added(draw: Draw) -> list[Any]:
    metric = MeanLoss(CPU)
    for samples in (1, 60_000, draw.rows):
        metric.update(draw.reals(1).reshape(()), samples)
    return [metric.total]


def hits(dtype: str) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        metric = Accuracy(CPU)
        for _ in range(2):
            # Half of the logits stand twice.
            logits = draw.reals()
            logits[:, draw.width // 2 :] = logits[:, : -(draw.width // 2) or None][:, ::-1]
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
    dtype: str, scale: float, shift: float, lay: Callable[[Any], Any] = np.array
) -> Callable[[Draw], list[Any]]:
    def run(draw: Draw) -> list[Any]:
        rows = draw.rng.integers(0, 256, (draw.rows + 3, draw.width)).astype(dtype)
        is_float = np.dtype(dtype).kind == "f"
        if is_float:
            rows[0, 0] = -0.0
        held = xn.DeviceData(
            lay(rows),
            np.arange(len(rows)),
            backend=CPU,
            dtype=draw.dtype,
            normalisation=Normalisation(scale, shift),
        )
        if is_float:
            held.x[1, 0] = np.nan  # which `DeviceData` itself refuses
        order = draw.rng.integers(0, len(rows), draw.rows)
        return [*held.batch(order)]

    return run


def windows(
    size: tuple[int, int], kernel: Any, groups: int = 1, channels: int = 0, **settings: Any
) -> Callable[[Draw], list[Any]]:
    """What `Conv2d` gathers from images of this size, and the sum of what it has for each entry.

    `channels`: of a group, if not as many as the draw is wide.
    """

    def run(draw: Draw) -> list[Any]:
        layer = xn.Conv2d(groups, kernel, groups=groups, **settings)
        own, numbers = channels or min(draw.width, 30), layer.windows.numbers()
        x = draw.reals(draw.rows, *size, groups * own)
        outputs = draw.rows, *layer.windows.output_size(layer, x.shape[1:])
        entries, by_entry = numbers[:2], x.shape[3] == 1
        axes = (*entries, *outputs) if by_entry else (*outputs, *entries)
        columns, dx = np.empty((groups, *axes, own), draw.dtype), np.empty(x.shape, draw.dtype)
        gather_windows(np, x, numbers, by_entry, columns, workspace=Workspace())
        gradients = draw.reals(math.prod(entries), groups, *outputs, own)
        add_entries(np, gradients, numbers, dx, workspace=Workspace())
        return [columns, dx]

    return run


def pooling(
    make: Callable[[], Any], size: tuple[int, int], channels: int = 0
) -> Callable[[Draw], list[Any]]:
    """Of images of this size, half of them with many equal values."""

    def run(draw: Draw) -> list[Any]:
        layer = make()
        x = draw.reals(draw.rows, *size, channels or draw.width)
        np.rint(x[::2], out=x[::2])
        y = layer.forward(x, training=True)
        # Whether 0 or -0 is the larger, NumPy leaves to the processor.
        found = [y + 0.0, layer.backward(draw.reals(*y.shape)).copy()]
        return [*found, layer.chosen] if isinstance(layer, xn.MaxPool2d) else found

    return run


def sparse(share: float, outputs: int = 6) -> Callable[[Draw], list[Any]]:
    """Both products of sparse rows with a `share` of entries, at least one."""

    def run(draw: Draw) -> list[Any]:
        rows = cases.sparse_rows(draw.rng, draw.rows, draw.width, share)
        rows.values = draw.reals(len(rows.indices))
        y, dw = (np.empty((count, outputs), draw.dtype) for count in rows.shape)
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
    "windows dilated in groups": windows((6, 7), 3, 2, dilation=2, padding=1),
    "windows depthwise": windows((6, 5), 3, 7, 1, padding=1),
    "windows of one channel": windows((7, 6), (3, 2), 1, 1),
    "windows of one channel strided": windows(
        (5, 9), (2, 3), 1, 1, stride=(1, 2), padding=(2, 3), dilation=(3, 2)
    ),
}
POOLS = {
    "pool": (lambda kind: kind(2), (6, 4)),
    "pool cut off": (lambda kind: kind((2, 3)), (5, 7)),
    "pool overlapping": (lambda kind: kind(3, 2, 1), (7, 6)),
    "pool of every pixel": (lambda kind: kind((3, 2), 1, (1, 1)), (4, 5)),
    "pool strided": (lambda kind: kind(2, (3, 5), (1, 0)), (7, 8)),
}


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


CASES = [
    Case(("relu", "relu_backward"), activation(xn.ReLU), "relu"),
    Case(("leaky_relu_backward",), activation(xn.LeakyReLU), "leaky relu"),
    Case(("leaky_relu_backward",), activation(lambda: xn.LeakyReLU(0)), "leaky relu whole"),
    Case(("tanh_backward",), activation(xn.Tanh), "tanh"),
    Case(("sigmoid_backward",), activation(xn.Sigmoid), "sigmoid"),
    Case(("shift_logits",), shifted, "shift"),
    Case(("softmax_cross_entropy_backward",), gradient_of_the_loss(0.0), "loss backward"),
    Case(("add_loss",), losses_added, "mean loss"),
    *(Case(("count_hits",), hits(t), f"accuracy {t}") for t in ("int64", "int32", "uint8")),
    Case(("descend",), updates(lambda: xn.SGD(0.1)), "SGD"),
    Case(("descend",), updates(lambda: xn.SGD(1, weight_decay=0.1)), "SGD decay"),
    Case(("descend_with_momentum",), updates(lambda: xn.SGD(0.1, momentum=0.9)), "momentum"),
    Case(
        ("descend_with_momentum",),
        updates(lambda: xn.SGD(0.1, momentum=0.7, nesterov=True)),
        "nesterov",
    ),
    Case(("rmsprop_direction", "descend"), updates(lambda: xn.RMSprop(0.1)), "RMSprop"),
    Case(
        ("rmsprop_direction", "descend_with_momentum"),
        updates(lambda: xn.RMSprop(0.1, decay_rate=0.9, momentum=0.7)),
        "RMSprop momentum",
    ),
    # Whole numbers are numbers too.
    Case(
        ("rmsprop_direction", "descend"),
        updates(lambda: xn.RMSprop(0.1, decay_rate=0, epsilon=1)),
        "RMSprop whole",
    ),
    Case(("adam",), updates(lambda: xn.Adam(0.01)), "Adam"),
    Case(("adam",), updates(lambda: xn.Adam(0.01, beta1=0, beta2=0, epsilon=1)), "Adam whole"),
    *(Case(("dropout",), dropout(rate), f"dropout {rate}") for rate in (0.3, 0, 1 - 1e-12)),
    Case(("gather_scaled",), batches("uint8", 1 / 255, -0.25), "pixels"),
    Case(("gather_scaled",), batches("uint8", 1, 0), "pixels whole"),
    Case(("gather_scaled",), batches("int64", -3.5, 0.0), "integers"),
    Case(("gather_scaled",), batches("float32", 2.5, 0.0), "float32"),
    Case(("gather_scaled",), batches("float64", -1.0, 0.0), "float64"),
    Case(("gather_scaled",), batches("bool", 0.5, 1.0), "bits"),
    Case(("gather_scaled",), batches("uint8", 0.5, 1.0, read_only), "pixels read only"),
    *(Case(("weighted_sums",), sparse(share), f"sparse {share}") for share in (0, 0.1, 0.7)),
    Case(("weighted_sums",), sparse(0.3, 1), "sparse of one output"),
    *(Case(("add_entries",), run, name) for name, run in WINDOWS.items()),
    *(
        Case(
            (name, f"{name}_backward"),
            pooling(partial(make, kind), size, channels),
            f"{id} {kind.__name__} {channels}",
        )
        for name, kind in (("max_pool", xn.MaxPool2d), ("average_pool", xn.AveragePool2d))
        for id, (make, size) in POOLS.items()
        for channels in ([0, 1] if id == "pool overlapping" else [0])
    ),
]
"""What is promised to the bit: all but exp, log, sine, cosine and sums."""

NOISE = Case(("gaussian_noise",), noise, "noise")

ROUNDED = [
    Case(("shift_logits", "softmax_cross_entropy"), lambda draw: loss_of(draw, 0.0), "loss"),
    Case(
        ("softmax_cross_entropy", "softmax_cross_entropy_backward"),
        lambda draw: loss_of(draw, 0.1),
        "loss smoothed",
    ),
]


def loss_of(draw: Draw, smoothing: float, labels: str = "int64") -> list[Any]:
    loss = SoftmaxCrossEntropy(smoothing)
    value = loss.forward(draw.reals(), draw.labels(labels))
    return [value, loss.p, loss.backward(0.3)]


CASES += [*ROUNDED, NOISE]


def both(case: Case, *arguments: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    """What the formula leaves and what the kernel leaves, from the same numbers."""
    with np.errstate(all="ignore"):
        expected = case.run(Draw(*arguments, **options))
        with dispatch.use_kernels(), noted() as names:
            found = case.run(Draw(*arguments, **options))
    assert set(case.kernels) <= set(names)
    return expected, found


def bits(array: Any) -> tuple[Any, ...]:
    """Shape, dtype and bytes, a NaN being a NaN."""
    array = np.array(array)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.shape, array.dtype, array.tobytes()


exact = pytest.mark.parametrize(
    "case", **cases.by_id([c for c in CASES if c not in [*ROUNDED, NOISE]])
)
rounded = pytest.mark.parametrize("case", **cases.by_id(ROUNDED))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
seeds, rows, widths = st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 20)


@exact
@dtypes
@given(seed=seeds, rows=rows, width=widths, specials=st.booleans())
@example(seed=0, rows=1, width=1, specials=False)
@example(seed=1, rows=1, width=1, specials=True)
@example(seed=2, rows=130, width=100, specials=True)
def test_a_kernel_gives_the_bits_of_its_formula(
    case: Case, dtype: str, seed: int, rows: int, width: int, specials: bool
) -> None:
    expected, found = both(case, seed, rows, width, dtype, specials)
    assert list(map(bits, found)) == list(map(bits, expected))


def assert_close(found: list[Any], truth: list[Any], dtype: str, largest: float) -> None:
    """Loss, probabilities and gradient, as far from float64's as rounding in `dtype` allows.

    The loss is a difference of numbers as large as the logits; the other two are below 1.
    """
    unit = float(np.finfo(dtype).eps)
    for array, expected, size in zip(found, truth, (1 + largest, 1.0, 1.0), strict=True):
        difference = np.abs(np.asarray(array, np.float64) - np.asarray(expected, np.float64))
        assert difference.max() <= 8 * unit * size


@rounded
@dtypes
@given(seed=seeds, rows=rows, width=widths, power=st.integers(-3, 4))
@example(seed=0, rows=1, width=1, power=0)
@example(seed=2, rows=1000, width=10, power=4)
def test_exp_log_and_sums_differ_by_rounding(
    case: Case, dtype: str, seed: int, rows: int, width: int, power: int
) -> None:
    """Logits up to ±1e4 and more, which exp alone would not survive."""

    class Scaled(Draw):
        def reals(self, *shape: int) -> np.ndarray:
            scaled = super().reals(*shape).astype(np.float32) * np.float32(10.0**power)
            return scaled.astype(self.dtype)

    truth = case.run(Scaled(seed, rows, width, "float64"))
    largest = float(np.abs(Scaled(seed, rows, width, "float64").reals()).max())
    expected = case.run(Scaled(seed, rows, width, dtype))
    with dispatch.use_kernels(), noted() as names:
        found = case.run(Scaled(seed, rows, width, dtype))
    assert set(case.kernels) <= set(names)
    assert [a.dtype for a in found] == [a.dtype for a in expected] == [np.dtype(dtype)] * 3
    for arrays in (found, expected):
        assert_close(arrays, truth, dtype, largest)


@dtypes
@given(seed=seeds, rows=rows, width=widths, specials=st.booleans())
@example(seed=0, rows=1, width=1, specials=False)
@example(seed=2, rows=130, width=101, specials=True)
def test_noise_differs_by_rounding(
    dtype: str, seed: int, rows: int, width: int, specials: bool
) -> None:
    expected, found = both(NOISE, seed, rows, width, dtype, specials)
    unit = float(np.finfo(dtype).eps) / 2
    for value, other in zip(expected, found, strict=True):
        if value.dtype == np.uint64:
            assert bits(value) == bits(other)
            continue
        assert value.dtype == other.dtype == dtype
        is_number = np.isfinite(value)
        assert bits(value[~is_number]) == bits(other[~is_number])
        # Each is off by 1 unit, and 7.6 of σ times 4.71 (`test_loops.py`); the angle of the formula
        # by 2 units of at most 2π more.
        value, other = value[is_number], other[is_number]
        bound = unit * (2 * 7.6 + 2 * math.tau) * 4.71 * 0.3 + 2 * unit * np.abs(value)
        assert (np.abs(value - other) <= bound).all()


@dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_no_number_spoils_its_row_and_the_loss(
    bad: float, smoothing: float, dtype: str
) -> None:
    for place in range(3):
        logits = np.zeros((2, 3), dtype)
        logits[1, place] = bad
        for in_use in (False, True):
            loss = SoftmaxCrossEntropy(smoothing)
            with (
                np.errstate(invalid="ignore"),
                dispatch.use_kernels(dispatch.ENOUGH_STEPS * in_use),
            ):
                value = loss.forward(logits, np.array([0, 1]))
                gradient = loss.backward()
            assert np.isnan(value)
            assert np.isnan(loss.p[:, 1]).all()
            assert np.isnan(gradient[1]).all()
            assert np.isfinite(gradient[0]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64", ">i4", ">i8"])
def test_labels_of_any_integers(dtype: str) -> None:
    for smoothing in (0.0, 0.1):
        truth = loss_of(Draw(0, 50, 7, "float64"), smoothing)
        with dispatch.use_kernels():
            found = loss_of(Draw(0, 50, 7, "float64"), smoothing, dtype)
        assert_close(found, truth, "float64", 8.0)
    with dispatch.use_kernels():
        assert hits(dtype)(Draw(0, 50, 7, "float32")) == hits("int64")(Draw(0, 50, 7, "float32"))


@pytest.mark.parametrize("dtype", ["float16", ">f4", ">f8", ">i2", "longdouble"])
def test_data_of_any_dtype(dtype: str) -> None:
    """Of float16 the loops know nothing; the others are made native when they come in."""
    run = batches(dtype, 0.5, -1.0)
    expected = run(Draw(0, 20, 7, "float64"))
    with dispatch.use_kernels(), noted() as names:
        found = run(Draw(0, 20, 7, "float64"))
    assert names == ([] if dtype == "float16" else ["gather_scaled"])
    assert list(map(bits, found)) == list(map(bits, expected))


def test_numpys_numbers_are_left_to_the_formula() -> None:
    """NumPy computes with a float64 of its own in float64, and with Python's in the array's."""

    def make() -> xn.Adam:
        made = xn.Adam(0.01)
        # Given to the class, they would have become Python's.
        made.beta1, made.beta2 = np.float64(0.9), np.float64(0.99)
        return made

    run = updates(make)
    expected = run(Draw(0, 20, 7, "float32"))
    with dispatch.use_kernels(), noted() as names:
        found = run(Draw(0, 20, 7, "float32"))
    assert names == []
    assert list(map(bits, found)) == list(map(bits, expected))


# Only on NumPy's arrays whose entries lie side by side


@pytest.mark.parametrize(
    "lay",
    [
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: np.repeat(a, 2, axis=a.ndim - 1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.asfortranarray(a) if a.ndim > 1 else np.repeat(a, 3)[::3],
    ],
    ids=["every other row", "every other column", "backwards", "by columns"],
)
def test_arrays_that_lie_apart(lay: Callable[[np.ndarray], np.ndarray]) -> None:
    class Apart(Draw):
        def reals(self, *shape: int) -> np.ndarray:
            return lay(super().reals(*shape))

        def labels(self, dtype: str = "int64") -> np.ndarray:
            return lay(super().labels(dtype))

    for case in CASES:
        near, far = Draw(0, 9, 4, "float64"), Apart(0, 9, 4, "float64")
        expected = case.run(near)
        with dispatch.use_kernels(), noted() as names:
            found = case.run(far)
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one, other, rtol=1e-14, atol=1e-15), case.id
        if case.id == "sparse of one output":  # a column lies alike by rows and by columns
            names = [name for name in names if name != "weighted_sums"]
        assert set(names) <= {"gather_scaled", "add_loss", "softmax_cross_entropy_backward"}


def test_labels_that_lie_apart_from_logits_that_do_not() -> None:
    logits, labels = Draw(0, 40, 6, "float64").reals(), (np.arange(80) % 6).reshape(40, 2)[:, 1]
    for smoothing in (0.0, 0.1):
        loss, other = SoftmaxCrossEntropy(smoothing), SoftmaxCrossEntropy(smoothing)
        expected = other.forward(logits, labels)
        with dispatch.use_kernels():
            value = loss.forward(logits, labels)
            gradient = loss.backward()
        assert value == pytest.approx(expected, rel=1e-14)
        assert np.allclose(gradient, other.backward(), rtol=1e-13, atol=1e-16)


def test_a_gradient_may_be_asked_for_later() -> None:
    """The forward pass in the block, the backward pass after it, and the other way round."""
    logits, labels = Draw(0, 40, 6, "float64").reals(), np.arange(40) % 6
    for smoothing in (0.0, 0.1):
        loss, other = SoftmaxCrossEntropy(smoothing), SoftmaxCrossEntropy(smoothing)
        other.forward(logits, labels)
        with dispatch.use_kernels():
            loss.forward(logits, labels)
            late = other.backward().copy()
        for gradient in (loss.backward(), late):
            assert np.allclose(gradient, other.backward(), rtol=1e-13, atol=1e-16)


def test_arrays_of_the_double_are_not_touched(double: Backend) -> None:
    with dispatch.use_kernels(), noted() as names:
        layer = xn.ReLU()
        layer.forward(double.xp.ones((3, 2)), training=True)
        layer.backward(double.xp.ones((3, 2)))
        optimizer = xn.Adam()
        optimizer.step(double.xp.ones(3), double.xp.ones(3))
        loss = SoftmaxCrossEntropy()
        loss.forward(double.xp.ones((3, 2)), double.xp.zeros(3, int))
        trained(12, backend=double, batch_size=50)
    assert names == []
    assert strict_cupy.ledger.counts["op"] > 0


def test_a_gradient_of_another_shape_is_refused() -> None:
    """As the formula refuses it: a loop must not read beyond an array."""
    words = "could not be broadcast|non-broadcastable|not of the shape"
    for kind in (xn.ReLU, xn.LeakyReLU, xn.Tanh, xn.Sigmoid):
        layer = kind()
        layer.forward(np.ones((4, 3)), training=True)
        for shape in ((5, 3), (3, 4), (12,)):
            for in_use in (False, True):
                with (
                    dispatch.use_kernels(dispatch.ENOUGH_STEPS * in_use),
                    pytest.raises(ValueError, match=words),
                ):
                    layer.backward(np.ones(shape))


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("kind", [xn.MaxPool2d, xn.AveragePool2d])
def test_a_gradient_of_images_of_another_shape_is_refused(kind: Any, in_use: bool) -> None:
    layer = kind(2, 1)
    layer.forward(np.ones((4, 5, 6, 3)), training=True)
    for shape in ((5, 4, 5, 3), (4, 5, 5, 3), (4, 4, 6, 3), (4, 4, 5, 2), (3, 4, 5, 3)):
        with (
            dispatch.use_kernels(dispatch.ENOUGH_STEPS * in_use),
            pytest.raises(ValueError, match=r"not be broadcast|non-broadcastable|not of the shape"),
        ):
            layer.backward(np.ones(shape))


# When they are in use


def pixels(rows: int = 48) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(5).integers(0, 256, (rows, 12), np.uint8)
    return x, x[:, :3].argmax(axis=1)


def trained(
    steps: int,
    optimizer: Callable[[], Any] = xn.Adam,
    backend: Backend = CPU,
    batch_size: int = 16,
    callbacks: tuple[xn.Callback, ...] = (),
    before: Callable[[], list[Layer]] = list,
    is_sparse: bool = False,
) -> tuple[Any, ...]:
    """What `steps` steps leave: the values, and the history but for the time.

    `before`: layers in front of the others, which take 12 features.
    """
    layers: list[Layer] = [*before(), xn.Linear(12, 7)]
    layers += [xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, 6)]
    layers += [xn.Tanh(), xn.Linear(6, 5), xn.Sigmoid(), xn.Linear(5, 3)]
    network = xn.Sequential(layers, backend=backend, seed=1)
    scaled = Normalisation(1 / 255, -0.25)
    x, labels = pixels()
    how = {"backend": backend, "dtype": "float32"}
    held = xn.DeviceData(x, labels, normalisation=scaled, **how)
    if is_sparse:
        held = xn.DeviceData(csr_array(x / 255), labels, **how)
    history = xn.fit(
        network,
        held,
        held,
        optimizer=optimizer(),
        epochs=steps // -(-48 // batch_size),
        batch_size=batch_size,
        callbacks=callbacks,
    )
    records = [[getattr(r, name) for name in vars(r) if name != "seconds"] for r in history.records]
    return backend.to_host(network.flat_parameters).tobytes(), records


ALWAYS = {"relu", "relu_backward", "tanh_backward", "sigmoid_backward", "dropout", "gather_scaled"}
ALWAYS |= {"shift_logits", "softmax_cross_entropy", "softmax_cross_entropy_backward"}
ALWAYS |= {"add_loss", "count_hits"}
OF_IMAGES = {"add_entries", "max_pool", "max_pool_backward"}
OF_IMAGES |= {"average_pool", "average_pool_backward"}


def images() -> list[Layer]:
    """From 12 features to 12."""
    made = [xn.Unflatten((3, 4)), xn.Conv2d(2, 2, padding=1), xn.MaxPool2d(2, 1)]
    return [*made, xn.Conv2d(3, 2), xn.AveragePool2d((1, 2), 1), xn.Flatten()]


FITS: list[tuple[dict[str, Any], set[str]]] = [
    ({"optimizer": lambda: xn.SGD(0.1)}, {*ALWAYS, "descend"}),
    ({"optimizer": lambda: xn.SGD(0.1, momentum=0.9)}, {*ALWAYS, "descend_with_momentum"}),
    ({"optimizer": lambda: xn.RMSprop(0.01)}, {*ALWAYS, "rmsprop_direction", "descend"}),
    ({"optimizer": xn.AdamW}, {*ALWAYS, "adam"}),
    ({"before": images}, {*ALWAYS, *OF_IMAGES, "adam"}),
    ({"is_sparse": True}, {*ALWAYS, "weighted_sums", "adam"} - {"gather_scaled"}),
    (
        {"before": lambda: [xn.GaussianNoise(), xn.Linear(12, 12), xn.LeakyReLU()]},
        {*ALWAYS, "gaussian_noise", "leaky_relu_backward", "adam"},
    ),
]


@pytest.fixture
def twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps are enough."""
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 12)


@pytest.mark.parametrize(
    ("options", "expected"),
    FITS,
    ids=["SGD", "momentum", "RMSprop", "W", "images", "sparse", "noise"],
)
@pytest.mark.usefixtures("twelve")
def test_long_training_uses_them_and_short_training_does_not(
    options: dict[str, Any], expected: set[str]
) -> None:
    with noted() as names:
        trained(9, **options)
        assert names == []
        trained(12, **options)
    assert set(names) == expected


@pytest.mark.usefixtures("twelve")
def test_an_epoch_counts_all_its_steps_and_a_full_batch_is_one() -> None:
    with noted() as names:
        trained(11, batch_size=48)
        assert names == []
        trained(12, batch_size=48)
        # Made once, all at once, and by no kernel.
        assert set(names) == {*ALWAYS, "adam"} - {"gather_scaled"}
        names.clear()
        trained(12, batch_size=12)
        assert set(names) == {*ALWAYS, "adam"}


@pytest.mark.usefixtures("twelve")
def test_what_is_trained_briefly_does_not_depend_on_what_was_trained_before() -> None:
    before = trained(9)
    with noted() as names:
        long = trained(12)
        assert names
        names.clear()
        assert trained(9) == before
        assert names == []
    assert trained(12) == long
    assert SETTINGS.kernels is None


@pytest.mark.usefixtures("twelve")
def test_training_differs_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values, records = trained(12)
    monkeypatch.setattr(SETTINGS, "kernels_enabled", False)
    with noted() as names:
        expected, written = trained(12)
    assert names == []
    error = cases.error(np.frombuffer(values, "f4"), np.frombuffer(expected, "f4"))
    assert error <= 1e-4
    for record, other in zip(records, written, strict=True):
        assert record == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "enabled"), [(None, True), ("1", True), ("", True), ("0", False)]
)
def test_the_environment_may_leave_them_out(
    setting: str | None, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XPNET_KERNELS", raising=False)
    if setting is not None:
        monkeypatch.setenv("XPNET_KERNELS", setting)
    assert context.from_environment().kernels_enabled is enabled


def test_brief_training_does_not_load_numba() -> None:
    script = """
import sys, numpy, xpnet as xn
network = xn.Sequential([xn.Linear(3, 2), xn.ReLU(), xn.Linear(2, 2)])
data = numpy.ones((4, 3)), numpy.array([0, 1, 1, 0])
xn.fit(network, data, optimizer=xn.SGD(), epochs=3)
print([name for name in ("numba", "xpnet.accel.numba_kernels") if name in sys.modules])
"""
    environment = os.environ | {"XPNET_KERNELS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment
    )
    assert found.stdout.strip() == "[]"


def is_used() -> bool:
    a = np.ones((2, 2))
    return dispatch.run_kernel("relu_backward", (a, a, np.empty_like(a)))


def test_nothing_outlasts_the_block() -> None:
    assert not is_used()
    with dispatch.use_kernels():
        assert is_used()
        with dispatch.use_kernels(dispatch.ENOUGH_STEPS - 1):
            assert not is_used()
            with dispatch.use_kernels(dispatch.ENOUGH_STEPS):
                assert is_used()
            assert not is_used()
        assert is_used()
        with pytest.raises(KeyboardInterrupt), dispatch.use_kernels():
            raise KeyboardInterrupt
        assert is_used()
    assert not is_used()
    with pytest.raises(KeyboardInterrupt), dispatch.use_kernels():
        raise KeyboardInterrupt
    assert not is_used()
    assert SETTINGS.kernels is None


@pytest.mark.usefixtures("twelve")
def test_nothing_outlasts_a_training_that_fails() -> None:
    class Stop(xn.Callback):
        def on_step_end(self, run: TrainingState) -> None:
            assert is_used()
            if run.step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(12, callbacks=(Stop(),))
    assert SETTINGS.kernels is None
    with pytest.raises(DivergenceError):
        trained(30, lambda: xn.SGD(1e38))
    assert SETTINGS.kernels is None


def in_another_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_does_not_notice() -> None:
    def used_there() -> bool:
        with dispatch.use_kernels():
            return is_used()

    with dispatch.use_kernels():
        assert in_another_thread(is_used) is False
        assert in_another_thread(used_there) is True
        assert is_used()
    assert in_another_thread(used_there) is True
    assert not is_used()
    assert SETTINGS.kernels is None


@pytest.mark.usefixtures("twelve")
def test_long_and_short_trainings_side_by_side() -> None:
    """Each leaves what it leaves alone."""
    steps = (12, 9, 15, 6)
    alone = [trained(n) for n in steps]
    found: dict[int, Any] = {}
    barrier = threading.Barrier(len(steps))

    def train(n: int) -> None:
        barrier.wait()
        found[n] = trained(n)

    threads = [threading.Thread(target=train, args=(n,)) for n in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in steps] == alone


# Without numba


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels have not been loaded yet, as at the beginning of a process."""
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 12)
    monkeypatch.delitem(sys.modules, "xpnet.accel.numba_kernels")
    dispatch.numba_kernels.cache_clear()
    yield
    dispatch.numba_kernels.cache_clear()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What twelve steps leave without kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(SETTINGS, "kernels_enabled", False)
        return trained(12)


@pytest.mark.usefixtures("not_loaded")
def test_without_numba_nothing_is_said(
    plain: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with warnings.catch_warnings(record=True) as said, noted() as names:
        assert trained(12) == plain
    assert names == []
    assert said == []
    assert "xpnet.accel.numba_kernels" not in sys.modules


@pytest.mark.usefixtures("not_loaded")
def test_a_numba_that_cannot_be_used_is_named_once_and_training_goes_on(
    plain: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "numba").mkdir()
    text = 'raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 9.9.")'
    (tmp_path / "numba" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba")
    with warnings.catch_warnings(record=True) as said, noted() as names:
        warnings.simplefilter("always")
        for _ in range(2):
            assert trained(12) == plain
    assert names == []
    (warning,) = said
    assert warning.category is RuntimeWarning
    message = str(warning.message)
    assert "numba is installed but cannot be used (Numba needs NumPy 2.3" in message
    assert "XPNET_KERNELS=0" in message
    assert "\n" not in message


@pytest.mark.usefixtures("not_loaded")
def test_kernels_are_loaded_once() -> None:
    module = dispatch.numba_kernels()
    assert module is importlib.import_module("xpnet.accel.numba_kernels")
    assert dispatch.numba_kernels() is module


# Recorded


def test_a_bound_kernel_is_the_same_call() -> None:
    for dtype in (np.float32, np.float64):
        values, again = (np.linspace(-1, 1, 7, dtype=dtype) for _ in range(2))
        gradients, rate = np.linspace(2, 3, 7, dtype=dtype), np.array([0.1], dtype)
        call = numba_kernels.bind("descend", (values, gradients, rate))
        for _ in range(3):
            call()
            numba_kernels.descend(again, gradients, rate)
            rate *= dtype(0.5)
        assert values.tobytes() == again.tobytes()


def test_a_bound_kernel_keeps_its_arrays() -> None:
    values = np.ones(100_000)
    call = numba_kernels.bind("descend", (values, np.ones(100_000), np.full(1, 0.25)))
    gc.collect()
    call()
    assert (values == 0.75).all()


# Neighbours joined


def neighbours(dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """What `Linear` and `ReLU` have in their hands, special values among it."""
    draw = Draw(seed, 40, 13, dtype, specials=seed > 0)
    return {"y": draw.reals(), "bias": draw.reals(13), "r": np.empty((40, 13), dtype)}


def forward(a: dict[str, np.ndarray]) -> Callable[[Any], Any]:
    def step(xp: Any) -> None:
        xp.add(a["y"], a["bias"], out=a["y"])
        relu(xp, a["y"], a["r"], workspace=Workspace())

    return step


def recorded(step: Callable[[Any], Any]) -> list[str]:
    """The names of the calls that a recording of `step` has, with kernels in use."""
    with dispatch.use_kernels():
        program = recording.record(np, lambda: step(array_module(np.empty(0))))
    return [op.name for op in program]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(20))
def test_a_bias_and_the_relu_after_it_are_one_call_to_the_same_bits(dtype: str, seed: int) -> None:
    given, expected = neighbours(dtype, seed), neighbours(dtype, seed)
    with np.errstate(all="ignore"), dispatch.use_kernels():
        (op,) = recording.record(np, lambda: forward(given)(array_module(given["y"])))
        for name, array in neighbours(dtype, seed).items():
            given[name][...] = array
        op.call()
    with np.errstate(all="ignore"):
        forward(expected)(np)
    for name, array in expected.items():
        assert bits(given[name]) == bits(array), name


def test_a_network_s_step_is_fused_and_only_with_kernels() -> None:
    network = xn.Sequential([xn.Linear(5, 4), xn.ReLU(), xn.Linear(4, 3)])
    x = np.ones((6, 5), np.float32)
    network.forward(x, training=True)

    def step(_: Any) -> None:
        network.forward(x, training=True)

    assert recorded(step) == ["dot", "add_relu", "dot", "add"]
    assert len(recording.record(np, lambda: step(None))) == 5


def test_what_is_not_a_bias_and_its_relu_stays_as_it_is() -> None:
    a = neighbours()
    other, column = np.ones_like(a["y"]), np.ones((40, 1), np.float32)
    row, apart = np.ones(13, np.float32), np.ones(26, np.float32)[::2]

    def of_another_array(xp: Any) -> None:
        xp.add(a["y"], a["bias"], out=a["y"])
        assert dispatch.run_kernel("relu", (other, a["r"]))

    def into_another_array(xp: Any) -> None:
        xp.add(a["y"], a["bias"], out=other)
        assert dispatch.run_kernel("relu", (other, a["r"]))

    def in_another_order(xp: Any) -> None:
        assert dispatch.run_kernel("relu", (a["y"], a["r"]))
        xp.add(a["y"], a["bias"], out=a["y"])

    def of_vectors(xp: Any) -> None:
        xp.add(row, 1, out=row)
        assert dispatch.run_kernel("relu", (row, row))

    def adding(bias: Any) -> Callable[[Any], None]:
        def step(xp: Any) -> None:
            xp.add(a["y"], bias, out=a["y"])
            assert dispatch.run_kernel("relu", (a["y"], a["r"]))

        return step

    def with_a_launch_between(xp: Any) -> None:
        xp.add(a["y"], a["bias"], out=a["y"])
        run_op(np, Op("nothing", (), None, lambda: None))
        assert dispatch.run_kernel("relu", (a["y"], a["r"]))

    assert recorded(adding(a["bias"])) == ["add_relu"]
    for bias in (column, other, apart, 1, True, row.astype("int8"), [1.0] * 13):
        assert recorded(adding(bias)) == ["add", "relu"]
    assert recorded(of_another_array) == ["add", "relu"]
    assert recorded(into_another_array) == ["add", "relu"]
    assert recorded(in_another_order) == ["relu", "add"]
    assert recorded(of_vectors) == ["add", "relu"]
    with dispatch.use_kernels():
        assert len(recording.record(np, lambda: with_a_launch_between(array_module(other)))) == 3
        assert recording.record(np, lambda: None) == ()


def test_a_known_kernel_is_bound_without_numbas_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may leave it locked, and then every other thread would wait for ever."""
    x, y = np.array([-1.0, 2.0]), np.empty(2)
    numba_kernels.bind("relu", (x, y))()

    def refuse(_: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(numba_kernels.KERNELS["relu"], "compile", refuse)
    y.fill(np.nan)
    numba_kernels.bind("relu", (x, y))()
    assert y.tolist() == [0, 2]
    with pytest.raises(AssertionError, match="compiled again"):
        numba_kernels.bind("relu", (x.reshape(1, 1, 1, 1, 2), y))
