"""Compiled loops over rows and columns: activations, arithmetic, sums, the optimizers' updates.

Each is a function of a block of arguments (`blocks.py`), whose order is that of the kernel or
formula of the same name. Updates call their kernel in `numba_kernels.py` for each row; kernels that
take arrays of any shape are loops again here, over the same functions of numbers, as a call of them
costs more than a short row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from xpnet.accel import numba_kernels as kernels
from xpnet.accel.cpu.compiled import inlined
from xpnet.accel.cpu.functions import exp as exp_of
from xpnet.accel.cpu.functions import tanh as tanh_of
from xpnet.accel.cpu.llvm import real_of, reals_at, row
from xpnet.accel.cpu.vectors import stack

Loop = Callable[[Any, Any], None]


def loops(bits: int) -> dict[str, Loop]:
    """The loops on floats of `bits` bits, by name, not compiled yet."""
    made = (*_activations(bits), *_products(bits), *_columns(bits), *_sums(bits))
    made += (*_rows(bits), *_updates(bits))
    return {loop.__name__: loop for loop in made}


def _activations(bits: int) -> tuple[Loop, ...]:
    def relu(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(y.size):
                y[j] = kernels._rectified(x[j])

    def relu_backward(p, step):
        for n in range(p[0]):
            dy, x, dx = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            zero = dx.dtype.type(0)
            for j in range(dx.size):
                dx[j] = kernels._rectified_gradient(dy[j], x[j], zero)

    def relu_backward_in_place(p, step):
        """`relu_backward` where `dx` is `dy`. Given it twice, LLVM would not use vectors."""
        for n in range(p[0]):
            x, dx = row(p, 0, n, bits), row(p, 1, n, bits)
            zero = dx.dtype.type(0)
            for j in range(dx.size):
                dx[j] = kernels._rectified_gradient(dx[j], x[j], zero)

    def leaky_relu_backward(p, step):
        slope = real_of(p[6], bits)
        for n in range(p[0]):
            dy, x, dx = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 3, n, bits)
            for j in range(dx.size):
                dx[j] = kernels._rectified_gradient(dy[j], x[j], slope)

    def tanh(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = tanh_of(x[j])

    def tanh_backward(p, step):
        for n in range(p[0]):
            dy, y, dx = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(dx.size):
                dx[j] = kernels._tanh_gradient(dy[j], y[j])

    def sigmoid_backward(p, step):
        for n in range(p[0]):
            dy, y, dx = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(dx.size):
                dx[j] = kernels._sigmoid_gradient(dy[j], y[j])

    def exp(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = exp_of(x[j])

    def sqrt(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = math.sqrt(x[j])

    def absolute(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = abs(x[j])

    def negative(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = -x[j]

    def sign(p, step):
        """0 of 0 and of -0; of NaN, NaN."""
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            zero, one = y.dtype.type(0), y.dtype.type(1)
            for j in range(x.size):
                v = x[j]
                y[j] = one if v > zero else -one if v < zero else v + zero

    def log1p(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = math.log1p(x[j])

    def copyto(p, step):
        for n in range(p[0]):
            x, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(x.size):
                y[j] = x[j]

    made = relu, relu_backward, relu_backward_in_place, leaky_relu_backward, tanh, tanh_backward
    return (*made, sigmoid_backward, exp, log1p, sqrt, absolute, negative, sign, copyto)


def _products(bits: int) -> tuple[Loop, ...]:
    def add(p, step):
        """`y = a + b`; a bias `b` is a vector."""
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] + b[j]

    def multiply(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] * b[j]

    def subtract(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] - b[j]

    def divide(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] / b[j]

    def maximum(p, step):
        """NaN if one of the two is NaN, as in NumPy."""
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] if a[j] > b[j] or a[j] != a[j] else b[j]

    def minimum(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] if a[j] < b[j] or a[j] != a[j] else b[j]

    def scale(p, step):
        """`y = a s`; the argument `s`: a number of each step."""
        s = reals_at(p[4] + step * p[5], 1, bits)[0]
        for n in range(p[0]):
            a, y = row(p, 0, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] * s

    def add_relu(p, step):
        """`y += b`, `r = max(y, 0)`."""
        for n in range(p[0]):
            y, b, r = row(p, 0, n, bits), row(p, 1, n, bits), row(p, 2, n, bits)
            for j in range(y.size):
                total = y[j] + b[j]
                y[j] = total
                r[j] = kernels._rectified(total)

    def add_relu_in_place(p, step):
        """`y = max(y + b, 0)`."""
        for n in range(p[0]):
            b, y = row(p, 0, n, bits), row(p, 1, n, bits)
            for j in range(y.size):
                y[j] = kernels._rectified(y[j] + b[j])

    return add, multiply, subtract, divide, maximum, minimum, scale, add_relu, add_relu_in_place


def _columns(bits: int) -> tuple[Loop, ...]:
    """With a number `b[n]` for each row."""

    def subtract_column(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits)[0], row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] - b

    def multiply_column(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits)[0], row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] * b

    def divide_column(p, step):
        for n in range(p[0]):
            a, b, y = row(p, 0, n, bits), row(p, 1, n, bits)[0], row(p, 2, n, bits)
            for j in range(y.size):
                y[j] = a[j] / b

    return subtract_column, multiply_column, divide_column


def _sums(bits: int) -> tuple[Loop, ...]:
    def column_sums(p, step):
        """`y = Σ_n a[n]`, four rows at a time: `y` is read, written and rounded less often."""
        y = row(p, 1, 0, bits)
        for j in range(y.size):
            y[j] = 0
        fours = p[0] // 4 * 4
        for n in range(0, fours, 4):
            a, b = row(p, 0, n, bits), row(p, 0, n + 1, bits)
            c, d = row(p, 0, n + 2, bits), row(p, 0, n + 3, bits)
            for j in range(y.size):
                y[j] += (a[j] + b[j]) + (c[j] + d[j])
        for n in range(fours, p[0]):
            a = row(p, 0, n, bits)
            for j in range(y.size):
                y[j] += a[j]

    def dot(p, step):
        """`sums[j] = Σ_i a[width i + j] b[width i + j]`: so many sums that vectors compute them."""
        a, b = row(p, 0, 0, bits), row(p, 1, 0, bits)
        width = p[8]
        sums = reals_at(p[6], width, bits)
        for j in range(width):
            sums[j] = 0
        full = a.size // width
        for i in range(full):
            for j in range(width):
                sums[j] += a[i * width + j] * b[i * width + j]
        for j in range(full * width, a.size):
            sums[j - full * width] += a[j] * b[j]

    def total(p, step):
        """`y = Σ a`, summed in float64."""
        summed = 0.0
        for n in range(p[0]):
            a = row(p, 0, n, bits)
            for j in range(a.size):
                summed += a[j]
        reals_at(p[4], 1, bits)[0] = summed

    def sum_parts(p, step):
        """`y = Σ_s parts[s]`, in the order of s; arguments: `parts[0]`, `y`, bytes, how many."""
        for n in range(p[0]):
            y = row(p, 1, n, bits)
            first = row(p, 0, n, bits)
            for j in range(y.size):
                y[j] = first[j]
            for s in range(1, p[8]):
                part = reals_at(p[2] + n * p[3] + s * p[6], y.size, bits)
                for j in range(y.size):
                    y[j] += part[j]

    def sum_transposed(p, step):
        """`y = (Σ_s parts[s])^T`; arguments as of `sum_parts`; overwrites `parts[0]`."""
        rows = p[0]
        for j in range(p[1]):
            first = reals_at(p[2] + j * p[3], rows, bits)
            for s in range(1, p[8]):
                part = reals_at(p[2] + j * p[3] + s * p[6], rows, bits)
                for n in range(rows):
                    first[n] += part[n]
            for n in range(rows):
                row(p, 1, n, bits)[j] = first[n]

    return column_sums, dot, total, sum_parts, sum_transposed


LANES = 32
"""Sums of every 32nd number of a row, which vectors compute; then half of them is added to the
other half, five times. The order does not depend on the processor."""


@inlined
def _sum_of_row(a: Any, sums: Any) -> Any:
    for j in range(LANES):
        sums[j] = 0
    full = a.size // LANES
    for i in range(full):
        for j in range(LANES):
            sums[j] += a[i * LANES + j]
    for j in range(full * LANES, a.size):
        sums[j - full * LANES] += a[j]
    width = LANES
    while width > 1:
        width //= 2
        for j in range(width):
            sums[j] += sums[width + j]
    return sums[0]


def _rows(bits: int) -> tuple[Loop, ...]:
    """A number for each row: `y[n]` of `a[n]`."""
    size = LANES * bits // 8

    def row_sums(p, step):
        sums = reals_at(stack(size), LANES, bits)
        for n in range(p[0]):
            row(p, 1, n, bits)[0] = _sum_of_row(row(p, 0, n, bits), sums)

    def row_means(p, step):
        sums = reals_at(stack(size), LANES, bits)
        for n in range(p[0]):
            a = row(p, 0, n, bits)
            row(p, 1, n, bits)[0] = _sum_of_row(a, sums) / sums.dtype.type(a.size)

    def row_maxima(p, step):
        """NaN if there is one, as in NumPy."""
        for n in range(p[0]):
            a = row(p, 0, n, bits)
            largest = a[0]
            for j in range(1, a.size):
                v = a[j]
                largest = v if v > largest or v != v else largest
            row(p, 1, n, bits)[0] = largest

    return row_sums, row_means, row_maxima


def _updates(bits: int) -> tuple[Loop, ...]:
    def flush_subnormals(p, step):
        """`s ← s · [|s| ≥ limit]`; arguments: `s`, limits of each step, 0 for nothing to do."""
        limit = reals_at(p[4] + step * p[5], 1, bits)[0]
        if limit > 0:
            for n in range(p[0]):
                state = row(p, 0, n, bits)
                zero, one = state.dtype.type(0), state.dtype.type(1)
                for j in range(state.size):
                    state[j] *= one if abs(state[j]) >= limit else zero

    def descend(p, step):
        scalars = reals_at(p[6] + step * p[7], 1, bits)
        for n in range(p[0]):
            kernels.descend(row(p, 0, n, bits), row(p, 1, n, bits), scalars)

    def descend_with_momentum(p, step):
        scalars = reals_at(p[8] + step * p[9], 1, bits)
        momentum, nesterov = real_of(p[10], bits), p[12] != 0
        for n in range(p[0]):
            kernels.descend_with_momentum(
                row(p, 0, n, bits),
                row(p, 1, n, bits),
                row(p, 2, n, bits),
                scalars,
                momentum,
                nesterov,
            )

    def rmsprop_direction(p, step):
        decay_rate, rest, epsilon = real_of(p[8], bits), real_of(p[10], bits), real_of(p[12], bits)
        for n in range(p[0]):
            kernels.rmsprop_direction(
                row(p, 0, n, bits),
                row(p, 1, n, bits),
                row(p, 2, n, bits),
                decay_rate,
                rest,
                epsilon,
            )

    def adam(p, step):
        scalars = reals_at(p[10] + step * p[11], 3, bits)
        beta1, beta2 = real_of(p[12], bits), real_of(p[14], bits)
        for n in range(p[0]):
            kernels.adam(
                row(p, 0, n, bits),
                row(p, 1, n, bits),
                row(p, 2, n, bits),
                row(p, 3, n, bits),
                scalars,
                beta1,
                beta2,
            )

    made = descend, descend_with_momentum, rmsprop_direction, adam
    return (*made, flush_subnormals)
