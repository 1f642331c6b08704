"""What a loop may be given: checks of arrays, of which a loop only knows the addresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from xpnet.accel.cpu.regions import region
from xpnet.backend import Array


def address(array: Array) -> int:
    """Of the first number."""
    return int(array.ctypes.data)


def key(matrix: Array) -> tuple[int, tuple[int, ...]]:
    """What tells a matrix from others: two of other shapes may lie at one address."""
    return address(matrix), matrix.shape


def is_real(array: Any) -> bool:
    """Whether the loops take it: float32, with numbers that lie side by side."""
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous


def is_dense(array: Any) -> bool:
    """A matrix of float32 whose rows or columns have their numbers side by side."""
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != np.float32:
        return False
    return bool(array.itemsize in array.strides and min(array.strides) > 0)


def is_matrix(array: Any) -> bool:
    """Of two dimensions."""
    return is_real(array) and array.ndim == 2


def are_labels(array: Any, count: int) -> bool:
    """`count` class numbers, as the loops take them."""
    is_listed = array.shape == (count,) and array.dtype == np.int64
    return bool(is_listed and array.flags.c_contiguous)


def are_ones(vector: Array) -> bool:
    """Whether it is `Workspace.ones`, which nothing writes to."""
    return not vector.flags.writeable and bool((vector == 1).all())


def is_flat(array: Any) -> bool:
    """Of one dimension."""
    return is_real(array) and array.ndim == 1


def is_like(a: Any, out: Array) -> bool:
    """Whether both are matrices, of one shape."""
    return is_matrix(a) and is_matrix(out) and a.shape == out.shape


def is_vector(a: Any, out: Array) -> bool:
    """A number for each column, such as a bias."""
    return is_flat(a) and a.shape == out.shape[1:]


def is_column(a: Any, out: Array) -> bool:
    """A number for each row of a matrix of several columns."""
    return is_matrix(a) and is_matrix(out) and a.shape == (len(out), 1) != out.shape


def share(a: Any, b: Any) -> bool:
    """Whether two arrays may have memory in common."""
    are_arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return are_arrays and np.may_share_memory(a, b)


def are_one(a: Array, b: Array) -> bool:
    """Whether they are the same array, so that each element shares memory with itself alone."""
    return address(a) == address(b) and a.shape == b.shape and a.strides == b.strides


def part_of(array: Any, cell: tuple[slice, slice]) -> Any:
    """The cell of a matrix, or its columns of a vector; anything else as it is."""
    if not isinstance(array, np.ndarray):
        return array
    return array[cell] if array.ndim == 2 else array[cell[1]]


def regions(arrays: Iterable[Any]) -> tuple[Any, ...]:
    """The memory of those that are arrays."""
    return tuple(region(a) for a in arrays if isinstance(a, np.ndarray) and a.size)
