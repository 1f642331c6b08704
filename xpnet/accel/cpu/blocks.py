"""The arguments of a compiled loop: one block of int64 numbers.

The first two are rows and columns of what the loop works on; then come two numbers for each
argument: of a matrix, the address and the bytes from row to row; of a vector, which is the same for
every row, the address and 0; of a table with a row for each step, the address and the bytes from
step to step; of a number, itself (of a float, its bit pattern) and 0. A loop works on a part of its
arrays if it is given slices of them. Numbers of a row lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xpnet.backend import HostArray


@dataclass(frozen=True)
class Each:
    """A table with a row for each step, `(steps, n)`: the loop reads the row of its step."""

    table: HostArray


def block(shape: tuple[int, int], *arguments: HostArray | Each | float) -> HostArray:
    """The block for rows and columns `shape`; floats get the dtype of the first array of floats."""
    real: Any = np.float32
    for argument in reversed(arguments):
        if isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
            real = argument.dtype
    pairs = [_pair(argument, np.dtype(real)) for argument in arguments]
    return np.array([*shape, *(number for pair in pairs for number in pair)], np.int64)


def _pair(argument: Any, real: np.dtype[Any]) -> tuple[int, int]:
    if isinstance(argument, Each):
        return argument.table.ctypes.data, argument.table.strides[0]
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data, argument.strides[0] if argument.ndim == 2 else 0
    if isinstance(argument, float | np.floating):
        return pattern(argument, real), 0
    return int(argument), 0


def pattern(number: Any, real: np.dtype[Any]) -> int:
    """The bit pattern of `number` in dtype `real`, as an integer."""
    return int(np.array(number, real).view(f"int{8 * real.itemsize}"))


def product_block(
    a: HostArray,
    b: HostArray,
    c: HostArray,
    add: bool = False,
    panels: HostArray | None = None,
) -> HostArray:
    """The block of a product `c = a b` or, with `add`, `c += a b`, which has a form of its own.

    Address, bytes from row to row and from column to column of each; rows, columns, k, `add`; bytes
    from panel to panel. `panels` `(n, k, width)`: a copy of the columns of `b`, `width` at a time.
    """
    if panels is not None:
        views = [*_view(a), panels.ctypes.data, *panels.strides[1:], *_view(c)]
        return np.array([*views, *c.shape, a.shape[1], int(add), panels.strides[0]], np.int64)
    if c.strides[1] != c.itemsize and c.shape[1] > 1:
        a, b, c = b.T, a.T, c.T  # the same product, with rows of c that lie side by side
    views = [*_view(a), *_view(b), *_view(c)]
    return np.array([*views, *c.shape, a.shape[1], int(add), 0], np.int64)


def _view(matrix: HostArray) -> tuple[int, ...]:
    return matrix.ctypes.data, *matrix.strides
