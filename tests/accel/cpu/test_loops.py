"""Each compiled loop, cut into parts, against its formula on NumPy."""

from __future__ import annotations

import ctypes
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import xpnet as xn  # noqa: F401  so that all formulas are registered
from xpnet.accel import numba_kernels, numba_random
from xpnet.accel.cpu import table
from xpnet.accel.cpu.blocks import Each, block
from xpnet.accel.dispatch import FORMULAS
from xpnet.optimizers.base import flush_subnormals
from xpnet.workspace import Workspace

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-310, 3e38, -1e4, 1e4, 1.0]
ROWS, COLUMNS = 23, 41

Arrays = dict[str, np.ndarray]
Window = tuple[slice, slice]


def call(name: str, arguments: np.ndarray, dtype: str, step: int = 0) -> None:
    pointer = arguments.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
    table.loop(name, dtype).ctypes(pointer, step)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def reals(seed: int, dtype: str, shape: Any = (ROWS, COLUMNS), special: bool = True) -> np.ndarray:
    """Normal draws, a fifth of them special values."""
    rng = np.random.default_rng(seed)
    drawn = 2 * rng.standard_normal(shape)
    with np.errstate(all="ignore"):
        chosen = rng.choice(np.array(SPECIAL), shape)
        mixed = np.where(rng.random(shape) < 0.2 * special, chosen, drawn)
        return mixed.astype(np.float32).astype(dtype)


def parts(rows: int = ROWS, columns: int = COLUMNS) -> list[Window]:
    """The matrix in 6 parts."""
    cuts = [slice(0, 5), slice(5, 6), slice(6, rows)], [slice(0, 17), slice(17, columns)]
    return [(r, c) for r in cuts[0] for c in cuts[1]]


def shape(window: Window) -> tuple[int, int]:
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """The same bits, but that any NaN is one."""
    found, expected = found.copy(), expected.copy()
    if found.dtype.kind == "f":
        found[np.isnan(found)] = expected[np.isnan(expected)] = np.nan
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def formula(name: str, *arguments: Any) -> None:
    """Runs the formula, with the scratch arrays that it wants."""
    keywords = inspect.signature(FORMULAS[name]).parameters
    scratch: dict[str, Any] = {"workspace": Workspace(), "change": np.empty_like(arguments[0])}
    scratch["rows"] = np.empty((ROWS, COLUMNS), arguments[0].dtype)
    wanted = {key: value for key, value in scratch.items() if key in keywords}
    with np.errstate(all="ignore"):
        FORMULAS[name](np, *arguments, **wanted)


ELEMENTWISE: dict[str, tuple[int, Callable[..., Any] | None]] = {
    "relu": (1, None),
    "relu_backward": (2, None),
    "tanh_backward": (2, None),
    "sigmoid_backward": (2, None),
    "add": (2, np.add),
    "multiply": (2, np.multiply),
    "divide": (2, np.divide),
    "maximum": (2, np.maximum),
    "minimum": (2, np.minimum),
    "sqrt": (1, np.sqrt),
    "absolute": (1, np.absolute),
    "copyto": (1, np.positive),
    "negative": (1, np.negative),
    "sign": (1, np.sign),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_loops_have_the_formula_s_bits(name: str, dtype: str) -> None:
    count, function = ELEMENTWISE[name]
    given = [reals(i, dtype) for i in range(count)]
    expected, found = np.empty_like(given[0]), np.empty_like(given[0])
    with np.errstate(all="ignore"):
        if function is None:
            formula(name, *given, expected)
        else:
            function(*given, out=expected)
    for window in parts():
        call(name, block(shape(window), *(x[window] for x in given), found[window]), dtype)
    assert same(found, expected)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.7])
def test_leaky_relu_has_the_formula_s_bits(slope: float, dtype: str) -> None:
    dy, x = reals(1, dtype), reals(2, dtype)
    expected, found = np.empty_like(x), np.empty_like(x)
    formula("leaky_relu_backward", dy, x, *convert((slope,), dtype), expected)
    for window in parts():
        given = dy[window], x[window], slope, found[window]
        call("leaky_relu_backward", block(shape(window), *given), dtype)
    assert same(found, expected)


@pytest.mark.parametrize("name", ["subtract", "multiply", "divide"])
def test_arithmetic_with_a_column(name: str, dtype: str) -> None:
    a, column, found = reals(1, dtype), reals(2, dtype, (ROWS, 1)), np.empty((ROWS, COLUMNS), dtype)
    loop = {"subtract": "subtract_column", "multiply": "multiply_column"}.get(name, "divide_column")
    for window in parts():
        given = a[window], column[window[0]], found[window]
        call(loop, block(shape(window), *given), dtype)
    with np.errstate(all="ignore"):
        assert same(found, getattr(np, name)(a, column))


def test_biases(dtype: str) -> None:
    y, bias = reals(1, dtype), reals(2, dtype, COLUMNS)
    found, total, rectified = np.empty_like(y), y.copy(), np.empty_like(y)
    for window in parts():
        of_part = bias[window[1]]
        call("add", block(shape(window), y[window], of_part, found[window]), dtype)
        given = total[window], of_part, rectified[window]
        call("add_relu", block(shape(window), *given), dtype)
    with np.errstate(all="ignore"):
        expected = y + bias
    assert same(found, expected)
    assert same(total, expected)
    formula("relu", expected, rectangle := np.empty_like(y))
    assert same(rectified, rectangle)


def test_loops_in_place_have_the_formula_s_bits(dtype: str) -> None:
    y, bias, dy = reals(1, dtype), reals(2, dtype, COLUMNS), reals(3, dtype)
    rectified, gradient = np.empty_like(y), np.empty_like(dy)
    with np.errstate(all="ignore"):
        formula("relu", y + bias, rectified)
    formula("relu_backward", dy, rectified, gradient)
    for window in parts():
        call("add_relu_in_place", block(shape(window), bias[window[1]], y[window]), dtype)
        given = y[window], dy[window]
        call("relu_backward_in_place", block(shape(window), *given), dtype)
    assert same(y, rectified)
    assert same(dy, gradient)


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest distance, in units of the last place of `found`; NaN and infinity match."""
    expected = exact.astype(found.dtype)
    is_number = np.isfinite(expected)
    np.testing.assert_array_equal(found[~is_number], expected[~is_number])
    distance = abs(found[is_number].astype(exact.dtype) - exact[is_number])
    return float(np.max(distance / np.spacing(abs(expected[is_number])).astype(exact.dtype)))


@pytest.mark.parametrize("name", ["exp", "tanh", "log1p"])
def test_elementary_functions_are_right_in_all_but_the_last_place(name: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    scales = np.exp(rng.uniform(-30, 5.2, (200, 500)))
    x = (scales * rng.choice([-1.0, 1.0], scales.shape)).astype(dtype)
    x[0, : len(SPECIAL)] = np.array(SPECIAL).astype(np.float32)
    x[1, :500] = np.linspace(-104.5, -86, 500)  # where exp is subnormal in float32
    x[2, :500] = np.linspace(88, 89.5, 500)  # and where it overflows
    found = np.empty_like(x)
    call(name, block(x.shape, x, found), dtype)
    wide = x.astype(np.longdouble if dtype == "float64" else np.float64)
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(wide)
        # The units of u = half a place: exp: r 1, sum and q r² 1, the last sum 1, the product with
        # a power of two exact (2 more where it is subnormal). tanh: r and rest 3, product and sum
        # 2, e + 2 and quotient 2. log1p is the C library's; of glibc's, the manual knows errors up
        # to 2 places.
        assert ulps(found, exact) <= {"exp": 2, "tanh": 3.5, "log1p": 2}[name]


def test_sums(dtype: str) -> None:
    a = reals(1, dtype, (7, ROWS, COLUMNS), special=False)
    total, columns = np.empty((ROWS, COLUMNS), dtype), np.empty(COLUMNS, dtype)
    for window in parts():
        given = a[0][window], total[window], a.strides[0], len(a)
        call("sum_parts", block(shape(window), *given), dtype)
    expected = a[0].copy()
    for part in a[1:]:
        expected += part
    assert same(total, expected)
    kept, transposed = a.copy(), np.empty((COLUMNS, ROWS), dtype)
    for down, across in parts():
        pieces, to = kept[0][down, across], transposed[across, down]
        call("sum_transposed", block(to.shape, pieces, to, a.strides[0], len(a)), dtype)
    assert same(transposed.T, expected)
    assert same(kept[1:], a[1:])
    for part in (slice(0, 17), slice(17, COLUMNS)):
        given = a[0][:, part], columns[part]
        call("column_sums", block((ROWS, part.stop - part.start), *given), dtype)
    expected = np.zeros(COLUMNS, dtype)
    fours = ROWS // 4 * 4
    for n in range(0, fours, 4):
        expected += (a[0, n] + a[0, n + 1]) + (a[0, n + 2] + a[0, n + 3])
    for n in range(fours, ROWS):
        expected += a[0, n]
    assert same(columns, expected)


@pytest.mark.parametrize("columns", [1, 2, 31, 32, 33, 100, 1000])
def test_sums_and_means_of_rows(columns: int, dtype: str) -> None:
    """Each of 32 sums has at most ⌈n / 32⌉ terms, and 5 additions make one sum of them."""
    a = reals(columns, dtype, (ROWS, columns), special=False)
    sums, means = np.empty((ROWS, 1), dtype), np.empty(ROWS, dtype)
    for rows in (slice(0, 5), slice(5, 6), slice(6, ROWS)):
        for loop, out in (("row_sums", sums[rows]), ("row_means", means.reshape(-1, 1)[rows])):
            call(loop, block((len(out), columns), a[rows], out), dtype)
    exact, unit = a.astype(np.longdouble).sum(axis=1), np.finfo(dtype).eps / 2
    bound = 1.01 * (-(-columns // 32) + 5) * unit * np.abs(a).astype(np.longdouble).sum(axis=1)
    assert (abs(sums[:, 0] - exact) <= bound).all()
    assert same(means, sums[:, 0] / np.dtype(dtype).type(columns))


def test_a_row_with_a_number_that_is_not_finite(dtype: str) -> None:
    a = np.ones((3, COLUMNS), dtype)
    a[0, 3], a[1, 35], a[2, 40] = math.nan, math.inf, -math.inf
    sums, means = np.empty((3, 1), dtype), np.empty((3, 1), dtype)
    call("row_sums", block(a.shape, a, sums), dtype)
    call("row_means", block(a.shape, a, means), dtype)
    expected = np.array([[math.nan], [math.inf], [-math.inf]], dtype)
    assert same(sums, expected)
    assert same(means, expected)


@pytest.mark.parametrize("columns", [1, 2, COLUMNS])
def test_maxima_of_rows(columns: int, dtype: str) -> None:
    a = reals(1, dtype, (ROWS, columns))
    found = np.empty((ROWS, 1), dtype)
    for rows in (slice(0, 5), slice(5, ROWS)):
        call("row_maxima", block((len(found[rows]), columns), a[rows], found[rows]), dtype)
    # Whether 0 or -0 is the larger, NumPy leaves to the processor.
    assert same(found + 0, a.max(axis=1, keepdims=True) + 0)
    assert np.isnan(found).any() == np.isnan(a).any()


UPDATES: dict[str, tuple[int, tuple[Any, ...]]] = {
    "descend": (2, ()),
    "descend_with_momentum": (3, (0.9, False)),
    "rmsprop_direction": (3, (0.99, 0.01, 1e-8)),
    "adam": (4, (0.9, 0.999)),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("nesterov", [False, True])
def test_updates_have_the_formula_s_bits(name: str, nesterov: bool, dtype: str) -> None:
    count, numbers = UPDATES[name]
    numbers = tuple(nesterov if number is False else number for number in numbers)
    found = [reals(i, dtype) for i in range(count)]
    if name in ("adam", "rmsprop_direction"):
        for moment in found[-2 if name == "rmsprop_direction" else -1 :][:1]:
            np.abs(moment, out=moment)  # a mean of squares
    expected = [x.copy() for x in found]
    scalars = np.array([[1, 2, 3], [0.01, 1, 1e-8]], dtype)
    has_scalars = name != "rmsprop_direction"
    flat = [x.reshape(-1) for x in expected]
    formula(name, *flat, *((scalars[1],) if has_scalars else ()), *convert(numbers, dtype))
    for window in parts():
        given = [x[window] for x in found]
        steps = (Each(scalars),) if has_scalars else ()
        call(name, block(shape(window), *given, *steps, *numbers), dtype, step=1)
    for of_loop, of_formula in zip(found, expected, strict=True):
        assert same(of_loop, of_formula)


def adam(gradients: np.ndarray, second: np.ndarray, epsilon: float = 2.0**-60) -> np.ndarray:
    """`-g / (sqrt(second) + epsilon)` in float32, by one update of zeros."""
    values, first = np.zeros_like(gradients), np.zeros_like(gradients)
    kept, scalars = second.copy(), np.array([[1, 1, epsilon]], np.float32)
    arrays = (values, gradients, first, kept)
    call("adam", block((1, gradients.size), *arrays, Each(scalars), 0.0, 1.0), "float32")
    return values


def divided(gradients: np.ndarray, second: np.ndarray, epsilon: float = 2.0**-60) -> np.ndarray:
    with np.errstate(all="ignore"):
        square = second + gradients * gradients
        return np.float32(0) - gradients / (np.sqrt(square) + np.float32(epsilon))


def test_an_update_of_adam_divides_exactly_by_each_number_from_1_to_2() -> None:
    # sqrt(round(d d)) is d; gradients so small that their squares vanish beside d d.
    d = np.arange(2**23, dtype=np.int32)
    d = (d + np.int32(127 << 23)).view(np.float32)
    second = d * d
    assert (np.sqrt(second) == d).all()
    rng = np.random.default_rng(7)
    for scale in (2.0**-30, 2.0**-79):
        m = (rng.uniform(1, 2, d.size) * rng.choice([-scale, scale], d.size)).astype(np.float32)
        assert same(adam(m, second), divided(m, second))
    m = np.full_like(d, 2.0**-30)
    assert same(adam(m, second), divided(m, second))


@pytest.mark.parametrize("rest", [1, -1, 3, -3])
def test_an_update_of_adam_divides_exactly_where_a_quotient_is_near_the_middle(rest: int) -> None:
    # Whole numbers: m 2^25 = n d + rest for an odd n, so m / d is rest / (2^25 d) from n / 2^25,
    # the middle between two floats if n has 25 bits.
    d = np.arange(2**23 + 1, 2**24, 2)
    half, inverse = (d + 1) // 2, np.ones_like(d)
    for _ in range(25):
        inverse = inverse * half % d
    m = rest * inverse % d
    assert (m * 2**25 % d == rest % d).all()
    divisor = (d / 2**23).astype(np.float32)
    second, dividend = divisor * divisor, (m / 2**60).astype(np.float32)
    assert (dividend.astype(float) * 2**60 == m).all()
    assert same(adam(dividend, second), divided(dividend, second))


@pytest.mark.parametrize("epsilon", [0.0, 1e-30, 2.0**-60, 1e-8, 1e30, math.nan, math.inf])
def test_an_update_of_adam_divides_exactly_at_and_beyond_the_limits(epsilon: float) -> None:
    edges = 2.0 ** np.array([-149, -126, -100, -81, -80, -79, -61, -60, -30, 0, 40, 60, 61, 100])
    edges = edges.astype(np.float32)
    near = np.concatenate([edges, np.nextafter(edges, np.float32(0)), edges * np.float32(1.5)])
    special = np.array([0, math.inf, math.nan, 3e38], np.float32)
    gradients = np.concatenate([near, special])
    # One number beyond the limits in a vector, and whole vectors of them.
    for second in [*near, *special]:
        for one in gradients:
            m = np.ones(37, np.float32)
            m[5], m[20:] = one, -one
            v = np.full_like(m, second)
            assert same(adam(m, v, epsilon), divided(m, v, epsilon)), (one, second)


def convert(numbers: tuple[Any, ...], dtype: str) -> tuple[Any, ...]:
    """Floats in the dtype of the arrays, as `dispatch` gives them to kernels and formulas."""
    return tuple(np.dtype(dtype).type(n) if type(n) is float else n for n in numbers)


def test_gathering(dtype: str) -> None:
    rng = np.random.default_rng(3)
    source = reals(1, dtype, (50, COLUMNS))
    pixels = rng.integers(0, 256, source.shape).astype(np.uint8)
    labels = rng.integers(0, 10, len(source))
    order = rng.integers(0, len(source), (3, ROWS))
    x, scaled, y = (np.empty((ROWS, COLUMNS), dtype) for _ in range(3))
    picked = np.empty(ROWS, np.int64)
    for window in parts():
        rows, columns = window
        indices = Each(order[:, rows])
        call("gather", block(shape(window), source[:, columns], indices, x[window]), dtype, 2)
        given = pixels[:, columns], indices, 1 / 255, -0.25, scaled[window]
        call("gather_scaled", block(shape(window), *given[:2], *given[2:]), dtype, 2)
        call("gather_integers", block(shape(window), labels, indices, picked[rows]), dtype, 2)
    assert same(x, source[order[2]])
    assert same(picked, labels[order[2]])
    formula("gather_scaled", pixels, order[2], *convert((1 / 255, -0.25), dtype), y)
    assert same(scaled, y)


def test_dropout_has_the_formula_s_bits(dtype: str) -> None:
    x = reals(1, dtype)
    units = np.random.default_rng(2).integers(0, 2**32, COLUMNS, dtype=np.uint32)
    counter, mask, y = np.array([2**64 - 9], np.uint64), np.empty_like(x), np.empty_like(x)
    own, of_mask, of_y = counter.copy(), np.empty_like(x), np.empty_like(x)
    threshold, scale = int(0.3 * 2**32), 1 / 0.7
    formula("dropout", x, own, units, threshold, *convert((scale,), dtype), of_mask, of_y)
    for window in parts():
        rows, columns = window
        given = x[window], counter, units[columns], threshold, scale, mask[window], y[window]
        call("dropout", block(shape(window), *given, rows.start), dtype)
    call("advance", block((1, 1), counter, ROWS), dtype)
    assert same(mask, of_mask)
    assert same(y, of_y)
    assert counter == own


def noise_of(x: np.ndarray, units: np.ndarray, std: float, start: int) -> np.ndarray:
    """By the formula, in the dtype of `x`."""
    y, counter = np.empty_like(x), np.array([start], np.uint64)
    formula("gaussian_noise", x, counter, units, *convert((-2 * std**2,), x.dtype.name), y)
    assert counter == (start + len(x)) % 2**64
    return y


@pytest.mark.parametrize("columns", [1, 2, COLUMNS, 256])
def test_noise_is_as_near_to_the_formula_as_rounding_allows(columns: int, dtype: str) -> None:
    x, std, start = reals(1, dtype, (ROWS, columns), special=False), 0.7, 2**64 - 9
    units = np.random.default_rng(2).integers(0, 2**32, -(-columns // 2), dtype=np.uint32)
    counter, y = np.array([start], np.uint64), np.empty_like(x)
    for rows in (slice(0, 5), slice(5, 6), slice(6, ROWS)):
        given = x[rows], counter, units, -2 * std**2, y[rows]
        call("gaussian_noise", block(y[rows].shape, *given, rows.start), dtype)
    wide = noise_of(x.astype(np.float64), units, std, start)
    # In units of half a place, relative: logarithm 2.6, factor and product 1 each, halved by the
    # root, whose own is 1: 3.3. Sine and cosine 3.3, their product 1. The radius is at most 4.71 σ.
    # The sum 1. In float64 the errors of `wide` are as large.
    error = abs(y - wide) / (np.finfo(dtype).eps / 2)
    assert (error <= (1 + (dtype == "float64")) * (7.6 * 4.71 * std + abs(wide))).all()


def test_logarithm_sine_and_cosine_of_all_draws() -> None:
    """All 2^16 radii and all 2^16 angles, in float32 against float64."""
    places = np.arange(2**16, dtype=np.int32)

    @numba.njit
    def computed(places: Any, logarithms: Any, circles: Any) -> None:
        for i in range(places.size):
            u = np.float32(np.int32(places[i]) + 1) * np.float32(2**-16)
            logarithms[i] = numba_random.log(u)
            circles[0, i], circles[1, i] = numba_random.circle(np.int32(places[i]), u)

    logarithms, circles = np.empty(2**16, np.float32), np.empty((2, 2**16), np.float32)
    computed(places, logarithms, circles)
    a = places * (math.tau / 2**16)
    # log: its last difference ½ place; what is subtracted, at most 0.172 f, is off by 4 halves, so
    # by 0.8 of the result, as f < 1.21 log(1 + f). Sine: the angle is off by 2 halves, the other
    # term by 0.3, the last sum by ½ place. Cosine less. Exact at multiples of a right angle.
    assert ulps(logarithms, np.log((places + 1) / 2**16)) <= 1.3
    is_zero = np.stack([places % 2**15 == 2**14, places % 2**15 == 0])
    assert (circles[is_zero] == 0).all()
    assert ulps(circles[~is_zero], np.stack([np.cos(a), np.sin(a)])[~is_zero]) <= 2.8


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_has_the_kernel_s_bits(smoothing: float, dtype: str) -> None:
    """Kernel and formula differ by the order of a sum; kernel and loop do not."""
    logits = reals(1, dtype)
    labels = np.random.default_rng(2).integers(0, COLUMNS, ROWS)
    s, p, losses = (
        np.empty((COLUMNS, ROWS), dtype),
        np.empty((COLUMNS, ROWS), dtype),
        np.empty(ROWS),
    )
    value, gradient, scale = np.empty((), dtype), np.empty_like(logits), 0.3 / ROWS
    of_s, of_value, of_gradient = np.empty_like(s), np.empty_like(value), np.empty_like(logits)
    numbers = convert((smoothing, scale), dtype)
    numba_kernels.shift_logits(logits, of_s)
    windows = [slice(0, 5), slice(5, 6), slice(6, ROWS)]
    for rows in windows:
        size = rows.stop - rows.start, COLUMNS
        call("shift_logits", block(size, logits[rows], s[:, rows]), dtype)
    assert same(s, of_s)
    with np.errstate(all="ignore"):
        np.exp(s, out=p)
    of_p = p.copy()
    numba_kernels.softmax_cross_entropy(s, labels, numbers[0], of_p, of_value)
    numba_kernels.softmax_cross_entropy_backward(of_p, labels, *numbers, of_gradient)
    for rows in windows:
        size = rows.stop - rows.start, COLUMNS
        given = s[:, rows], labels[rows], smoothing, p[:, rows], losses[rows]
        call("softmax_cross_entropy", block(size, *given), dtype)
        given = p[:, rows], labels[rows], smoothing, scale, gradient[rows]
        call("softmax_cross_entropy_backward", block(size, *given), dtype)
    call("mean_loss", block((ROWS, 1), losses, value), dtype)
    assert same(p, of_p)
    assert same(value, of_value)
    assert same(gradient, of_gradient)


def test_metrics(dtype: str) -> None:
    logits, labels = reals(1, dtype), np.random.default_rng(2).integers(0, 4, ROWS)
    logits[:, 4:] = logits[:, :1]
    hits, of_hits = np.array([3]), np.array([3])
    formula("count_hits", logits, labels, of_hits)
    for rows in (slice(0, 5), slice(5, ROWS)):
        size = rows.stop - rows.start, COLUMNS
        call("count_hits", block(size, logits[rows], labels[rows], hits), dtype)
    assert same(hits, of_hits)
    assert 3 < hits[0] < 3 + ROWS
    value, total, of_total = np.array(0.7, dtype), np.array([0.1]), np.array([0.1])
    formula("add_loss", value, 60_000, of_total)
    call("add_loss", block((1, 1), value, 60_000, total), dtype)
    assert same(total, of_total)


def test_arithmetic_with_numbers_of_a_step(dtype: str) -> None:
    a, b, y = reals(1, dtype), reals(2, dtype), np.empty((ROWS, COLUMNS), dtype)
    numbers = reals(3, dtype, (4, 2))
    for window in parts():
        call("subtract", block(shape(window), a[window], b[window], y[window]), dtype)
    with np.errstate(all="ignore"):
        assert same(y, a - b)
    for window in parts():
        given = a[window], Each(numbers[:, 1:]), y[window]
        call("scale", block(shape(window), *given), dtype, 3)
    with np.errstate(all="ignore"):
        assert same(y, a * numbers[3, 1])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1000])
def test_dot_of_two_vectors(size: int, dtype: str) -> None:
    """Each of the 64 sums has at most ⌈n / 64⌉ terms, each rounded twice; their sum is exact."""
    a, b = (reals(seed, dtype, (size,), special=False) for seed in (1, 2))
    sums, out = np.full((1, 64), 7, dtype), np.empty((), dtype)
    call("dot", block((1, size), a, b, sums[0], 64), dtype)
    call("total", block((1, 64), sums, out), dtype)
    products = a.astype(np.longdouble) * b
    bound = (size // 64 + 3) * np.finfo(dtype).eps * np.abs(products).sum()
    assert abs(out - products.sum()) <= bound


@pytest.mark.parametrize("step", [0, 1])
def test_flushing_has_the_formula_s_bits(step: int, dtype: str) -> None:
    tiny = float(np.finfo(dtype).tiny)
    state = reals(0, dtype)
    state[:4, :4] = tiny * np.array([0.999, -0.5, 1, -1])
    limits, expected = np.array([[0], [tiny]], dtype), state.copy()
    if step:
        flush_subnormals(expected, np.empty_like(expected))
        assert not same(expected, state)
    for window in parts():
        arguments = block(shape(window), state[window], Each(limits))
        call("flush_subnormals", arguments, dtype, step)
    assert same(state, expected)


def test_every_loop_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in sorted(table.names()) if f'"{name}"' not in here] == []
