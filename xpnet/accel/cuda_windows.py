"""The launches of the CUDA kernels of windows that move over images: `Conv2d` and pooling.

They belong to `cuda_kernels.py`, which says what holds for all launches. `numbers` are the size of
the windows, their stride, padding and dilation, two each. Each kernel has a thread
for each element of its result, which takes what that element is computed from: nothing is added
by several threads, and the border of an image is not stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from xpnet.accel.cuda_launch import Launch, Real, each, launch, launches_of
from xpnet.backend import Array
from xpnet.errors import KernelDeclined


@launches_of
def gather_windows(
    x: Real,
    numbers: tuple[int, ...],
    by_entry: bool,
    columns: Real,
) -> Iterator[Launch]:
    """`Conv2d.forward` and `backward`: the windows of some images."""
    size = columns.shape[4:6] if by_entry else columns.shape[2:4]
    arguments = (x, *numbers, by_entry, columns, columns.size, *x.shape, *size, columns.shape[6])
    yield launch("gather_windows", (columns,), each(columns.size), *arguments)


@launches_of
def add_entries(
    entries: Real,
    numbers: tuple[int, ...],
    dx: Real,
) -> Iterator[Launch]:
    """`Conv2d.backward`, `dx` from the gradients of all entries of all windows."""
    groups, count, down, across, own = entries.shape[1:]
    _require_windows(numbers, dx, (count, down, across, groups * own))
    arguments = (entries, *numbers, dx, dx.size, *dx.shape[1:3], *entries.shape[1:])
    yield launch("add_entries", (dx,), each(dx.size), *arguments)


@launches_of
def max_pool(
    x: Real,
    numbers: tuple[int, ...],
    chosen: Array,
    y: Real,
) -> Iterator[Launch]:
    """`MaxPool2d.forward`."""
    border, over = y.dtype.type(-math.inf), (*x.shape[1:], *y.shape[1:3])
    arguments = (x, *numbers, border, chosen, y, y.size, *over)
    yield launch("max_pool", (y,), each(y.size), *arguments)


@launches_of
def max_pool_backward(
    dy: Real,
    chosen: Array,
    numbers: tuple[int, ...],
    dx: Real,
) -> Iterator[Launch]:
    """`MaxPool2d.backward`."""
    _require_windows(numbers, dx, dy.shape)
    arguments = (dy, chosen, *numbers, dx, dx.size, *dx.shape[1:], *dy.shape[1:3])
    yield launch("max_pool_backward", (dx,), each(dx.size), *arguments)


@launches_of
def average_pool(
    x: Real,
    numbers: tuple[int, ...],
    y: Real,
) -> Iterator[Launch]:
    """`AveragePool2d.forward`."""
    share = y.dtype.type(1 / (numbers[0] * numbers[1]))
    arguments = (x, *numbers, share, y, y.size, *x.shape[1:], *y.shape[1:3])
    yield launch("average_pool", (y,), each(y.size), *arguments)


@launches_of
def average_pool_backward(
    dy: Real,
    numbers: tuple[int, ...],
    dx: Real,
) -> Iterator[Launch]:
    """`AveragePool2d.backward`."""
    _require_windows(numbers, dx, dy.shape)
    share = dx.dtype.type(1 / (numbers[0] * numbers[1]))
    arguments = (dy, *numbers, share, dx, dx.size, *dx.shape[1:], *dy.shape[1:3])
    yield launch("average_pool_backward", (dx,), each(dx.size), *arguments)


def _require_windows(numbers: tuple[int, ...], dx: Array, shape: tuple[int, ...]) -> None:
    """Raises `KernelDeclined` unless `shape` is that of the output for images as `dx`."""
    pairs = zip(*(numbers[k : k + 2] for k in range(0, 8, 2)), dx.shape[1:3], strict=True)
    size = (
        (length + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1
        for kernel, stride, padding, dilation, length in pairs
    )
    if shape != (dx.shape[0], *size, dx.shape[3]):
        raise KernelDeclined
