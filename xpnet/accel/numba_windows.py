"""CPU kernels of windows that move over images: `Conv2d` and pooling.

They belong to `numba_kernels.py`, which says what holds for all kernels. `numbers` are the size of
the windows, their stride, padding and dilation, two each. For an entry `(i, j)`, the
windows of one row read pixels of one row; the first window reads the pixel `offset` of it, which
may lie in the border. Arrays are taken as one row of numbers, and loops over them have unsigned
indices: with signed ones numba handles negative indices and does not vectorise the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from xpnet.backend import Array

# Below this many adjacent numbers, the loop over them is the outer one.
FEW = 4
# The formula raises too; a loop would continue beyond the end of an array.
OTHER_SHAPE = "dy is not of the shape of the output of the forward pass"


def compiled(function: Callable[..., Any]) -> Any:
    """`function`, compiled when it is first called."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@compiled
def _spans(number: int, step: int, padding: int, stride: int, size: int, count: int) -> Any:
    """For each of `number` entries `j` of a window, `(number, 3)` int64: `offset`, the pixel at
    entry `j` of window 0; the first of `count` windows whose entry `j` lies within the `size`
    pixels of the image; and one past the last such window.
    """
    spans = np.empty((number, 3), np.int64)
    for j in range(number):
        offset = j * step - padding
        first = min(count, max(0, -(offset // stride)))
        end = min(count, (size - 1 - offset) // stride + 1)
        spans[j, 0], spans[j, 1], spans[j, 2] = offset, first, max(first, end)
    return spans


@compiled
def _window(pixel: int, offset: int, stride: int, count: int) -> int:
    """The one of `count` windows whose entry is this pixel, or -1."""
    moved = pixel - offset
    if moved < 0 or moved % stride != 0 or moved // stride >= count:
        return -1
    return moved // stride


@compiled
def _set(values: Any, at: int, count: int, value: Any) -> None:
    start = np.uintp(at)
    for k in range(np.uintp(count)):
        values[start + k] = value


# Each of these does something to `width` numbers side by side, `count` times, `step` or `by` apart.


@compiled
def _add(
    x: Any, at: int, step: int, factor: Any, y: Any, to: int, by: int, count: int, width: int
) -> None:
    """`y += x · factor`."""
    if step == by == width:
        count, width = 1, count * width
    if width < FEW:
        for k in range(width):
            a, b = np.uintp(at + k), np.uintp(to + k)
            for _ in range(count):
                y[b] += x[a] * factor
                a, b = a + np.uintp(step), b + np.uintp(by)
        return
    for n in range(count):
        a, b = np.uintp(at + n * step), np.uintp(to + n * by)
        for k in range(np.uintp(width)):
            y[b + k] += x[a + k] * factor


@compiled
def _add_chosen(
    dy: Any, chosen: Any, place: Any, at: int, dx: Any, to: int, by: int, count: int, width: int
) -> None:
    """`dx += dy`, where `place` was chosen; elsewhere `dy` is times 0, which may be NaN."""
    if by == width:
        count, width = 1, count * width
    one, zero = dx.dtype.type(1), dx.dtype.type(0)
    if width < FEW:
        for k in range(width):
            a, b = np.uintp(at + k), np.uintp(to + k)
            for _ in range(count):
                dx[b] += dy[a] * (one if chosen[a] == place else zero)
                a, b = a + np.uintp(width), b + np.uintp(by)
        return
    for n in range(count):
        a, b = np.uintp(at + n * width), np.uintp(to + n * by)
        for k in range(np.uintp(width)):
            dx[b + k] += dy[a + k] * (one if chosen[a + k] == place else zero)


@compiled
def _choose(
    x: Any, at: int, step: int, place: Any, chosen: Any, y: Any, to: int, count: int, width: int
) -> None:
    """Where `x` is not less or equal, `place` is chosen and `y = x`."""
    if step == width:
        count, width = 1, count * width
    if width < FEW:
        for k in range(width):
            a, b = np.uintp(at + k), np.uintp(to + k)
            for _ in range(count):
                chosen[b], y[b] = _larger(x[a], place, chosen[b], y[b])
                a, b = a + np.uintp(step), b + np.uintp(width)
        return
    for n in range(count):
        a, b = np.uintp(at + n * step), np.uintp(to + n * width)
        for k in range(np.uintp(width)):
            chosen[b + k], y[b + k] = _larger(x[a + k], place, chosen[b + k], y[b + k])


@compiled
def _larger(x: Any, place: Any, chosen: Any, y: Any) -> Any:
    is_larger = not x <= y
    # NaN stays, as in `maximum`.
    return place if is_larger else chosen, x if is_larger and y == y else y


@compiled
def _choose_border(place: Any, chosen: Any, y: Any, first: int, end: int) -> None:
    """The same of a border of −∞: not less or equal to NaN alone."""
    for k in range(first, end):
        if y[k] != y[k]:
            chosen[k] = place


@compiled
def add_entries(
    entries: Array,
    numbers: tuple[int, ...],
    dx: Array,
) -> None:
    """`Conv2d.backward`, `dx` from the gradients of all entries of all windows."""
    _sum_of_entries(entries.reshape(-1), entries.shape[1:], True, 1.0, numbers, dx)


@compiled
def _sum_of_entries(
    gradients: Any, shape: Any, by_entry: bool, factor: float, numbers: Any, dx: Any
) -> None:
    """Every pixel's sum over the windows it lies in, times `factor`.

    `gradients`: `shape`, `(groups, N, oh, ow, C/groups)`; if `by_entry`, so many for each entry.
    """
    (images, height, width, channels), (groups, count, down, across, own) = dx.shape, shape
    kernel_rows, kernel_columns, stride_rows, stride_columns = numbers[:4]
    padding_rows, padding_columns, dilation_rows, dilation_columns = numbers[4:]
    has_size = images == count and groups * own == channels
    rows = height, kernel_rows, stride_rows, padding_rows, dilation_rows, down
    columns = width, kernel_columns, stride_columns, padding_columns, dilation_columns, across
    for size, kernel, stride, padding, dilation, windows in (rows, columns):
        has_size &= windows == (size + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1
    if not has_size:
        raise ValueError(OTHER_SHAPE)
    pixels, factor = dx.reshape(-1), dx.dtype.type(factor)
    row, step = width * channels, stride_columns * channels
    spans = _spans(kernel_columns, dilation_columns, padding_columns, stride_columns, width, across)
    for n in range(count):
        for h in range(height):
            to = (n * height + h) * row
            _set(pixels, to, row, 0)
            for i in range(kernel_rows):
                p = _window(h, i * dilation_rows - padding_rows, stride_rows, down)
                for j in range(kernel_columns if p >= 0 else 0):
                    offset, first, end = spans[j]
                    left = to + (first * stride_columns + offset) * channels
                    of_entry = (i * kernel_columns + j) * groups if by_entry else 0
                    for g in range(groups):
                        at = ((((of_entry + g) * count + n) * down + p) * across + first) * own
                        by_group = left + g * own
                        _add(gradients, at, own, factor, pixels, by_group, step, end - first, own)


@compiled
def max_pool(
    x: Array,
    numbers: tuple[int, ...],
    chosen: Array,
    y: Array,
) -> None:
    """`MaxPool2d.forward`."""
    kernel_rows, kernel_columns, stride_rows, stride_columns = numbers[:4]
    padding_rows, padding_columns, dilation_rows, dilation_columns = numbers[4:]
    (count, height, width, channels), (down, across) = x.shape, y.shape[1:3]
    x, chosen, y = x.reshape(-1), chosen.reshape(-1), y.reshape(-1)
    row, step = across * channels, stride_columns * channels
    spans = _spans(kernel_columns, dilation_columns, padding_columns, stride_columns, width, across)
    for n in range(count):
        for p in range(down):
            to = (n * down + p) * row
            _set(chosen, to, row, 0)
            _set(y, to, row, -math.inf)
            for i in range(kernel_rows):
                h = p * stride_rows + i * dilation_rows - padding_rows
                for j in range(kernel_columns):
                    place = np.int32(i * kernel_columns + j)
                    if h < 0 or h >= height:
                        _choose_border(place, chosen, y, to, to + row)
                        continue
                    offset, first, end = spans[j]
                    a, b = to + first * channels, to + end * channels
                    _choose_border(place, chosen, y, to, a)
                    at = ((n * height + h) * width + first * stride_columns + offset) * channels
                    _choose(x, at, step, place, chosen, y, a, end - first, channels)
                    _choose_border(place, chosen, y, b, to + row)


@compiled
def max_pool_backward(
    dy: Array,
    chosen: Array,
    numbers: tuple[int, ...],
    dx: Array,
) -> None:
    """`MaxPool2d.backward`."""
    kernel_rows, kernel_columns, stride_rows, stride_columns = numbers[:4]
    padding_rows, padding_columns, dilation_rows, dilation_columns = numbers[4:]
    if dy.shape != chosen.shape:
        raise ValueError(OTHER_SHAPE)
    (count, height, width, channels), (down, across) = dx.shape, dy.shape[1:3]
    dy, chosen, dx = dy.reshape(-1), chosen.reshape(-1), dx.reshape(-1)
    row, step = width * channels, stride_columns * channels
    spans = _spans(kernel_columns, dilation_columns, padding_columns, stride_columns, width, across)
    for n in range(count):
        for h in range(height):
            to = (n * height + h) * row
            _set(dx, to, row, 0)
            for i in range(kernel_rows):
                p = _window(h, i * dilation_rows - padding_rows, stride_rows, down)
                for j in range(kernel_columns if p >= 0 else 0):
                    offset, first, end = spans[j]
                    left = to + (first * stride_columns + offset) * channels
                    at = ((n * down + p) * across + first) * channels
                    place, windows = np.int32(i * kernel_columns + j), end - first
                    _add_chosen(dy, chosen, place, at, dx, left, step, windows, channels)


@compiled
def average_pool(
    x: Array,
    numbers: tuple[int, ...],
    y: Array,
) -> None:
    """`AveragePool2d.forward`."""
    kernel_rows, kernel_columns, stride_rows, stride_columns = numbers[:4]
    padding_rows, padding_columns, dilation_rows, dilation_columns = numbers[4:]
    (count, height, width, channels), (down, across) = x.shape, y.shape[1:3]
    x, y, real = x.reshape(-1), y.reshape(-1), y.dtype.type
    share, one = real(1 / (kernel_rows * kernel_columns)), real(1)
    row, step = across * channels, stride_columns * channels
    spans = _spans(kernel_columns, dilation_columns, padding_columns, stride_columns, width, across)
    for n in range(count):
        for p in range(down):
            to = (n * down + p) * row
            _set(y, to, row, 0)
            for i in range(kernel_rows):
                h = p * stride_rows + i * dilation_rows - padding_rows
                for j in range(kernel_columns if 0 <= h < height else 0):
                    offset, first, end = spans[j]
                    at = ((n * height + h) * width + first * stride_columns + offset) * channels
                    a = to + first * channels
                    _add(x, at, step, one, y, a, channels, end - first, channels)
            for k in range(to, to + row):
                y[k] *= share


@compiled
def average_pool_backward(
    dy: Array,
    numbers: tuple[int, ...],
    dx: Array,
) -> None:
    """`AveragePool2d.backward`."""
    share = 1 / (numbers[0] * numbers[1])
    _sum_of_entries(dy.reshape(-1), (1, *dy.shape), False, share, numbers, dx)
