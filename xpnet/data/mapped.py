"""Samples that stay in their file: memory-mapped, and read when they are indexed."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy

from xpnet.backend import HostArray
from xpnet.errors import DataError

Samples: TypeAlias = Any
"""Samples `(N, features)`: a `numpy.ndarray`, in memory, or `MappedRows`, in a file."""

BYTES_AT_ONCE = 2**24
"""The size of the blocks in which a whole map is read."""


class MappedRows:
    """Rows of a memory map, in any order, which are read only when they are indexed.

    `array`: the result of `numpy.load(path, mmap_mode="r")`, or a contiguous part of it,
    `(M, features)`, `(M, height, width)` or `(M, height, width, 1)`; `indices`: `(N,)` the rows,
    None for all. `rows[key]`, with a slice or an array of indices, is a NumPy array
    `(n, features)`, and `numpy.asarray(rows)` reads all rows. A pickle holds the path of the file,
    not its content.

    Raises `DataError` for another shape, such as images of several channels, and where rows are
    not contiguous in the file.
    """

    def __init__(self, array: HostArray, indices: HostArray | None = None) -> None:
        if array.ndim == 4 and array.shape[3] != 1 and 0 not in array.shape:
            # Rows are channels first; a batch would be reordered in memory each time.
            raise DataError(
                f"x is a memory map of images {array.shape}, whose channels come last, and rows "
                f"are gathered in the order channels, height, width: save the array with "
                f"numpy.savez (.npz is read into memory), or map rows in this order, "
                f"x.transpose(0, 3, 1, 2).reshape(len(x), -1), in a Dataset with an image_shape"
            )
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise DataError(
                f"x has shape {array.shape}: give (samples, features) or (samples, height, width), "
                f"each at least 1"
            )
        # NumPy would read the whole file into memory for each batch, to reorder it.
        if not array.flags.c_contiguous or not array.dtype.isnative:
            fault = "order" if array.dtype.isnative else f"byte order ({array.dtype})"
            raise DataError(
                f"x is a memory map in another {fault} than rows can be gathered in: save it in "
                f"C order and this machine's byte order (numpy.ascontiguousarray, astype)"
            )
        self.values: HostArray = numpy.asarray(array).reshape(len(array), -1)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.values if self.indices is None else self.indices)

    @property
    def dtype(self) -> numpy.dtype[Any]:
        """The dtype of the values in the file."""
        dtype: numpy.dtype[Any] = self.values.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, features)`."""
        return len(self), self.values.shape[1]

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def __getitem__(self, key: Any) -> HostArray:
        rows: HostArray = self.values[key if self.indices is None else self.indices[key]]
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        return numpy.array(self[:], dtype=dtype, copy=copy)

    def take(self, indices: HostArray) -> MappedRows:
        """The rows at `indices` `(n,)`, which stay in the file."""
        return MappedRows(self.values, indices if self.indices is None else self.indices[indices])

    def blocks(self) -> Iterator[tuple[slice, HostArray]]:
        """All rows in order, in blocks of about `BYTES_AT_ONCE`, each with its slice."""
        size = max(1, BYTES_AT_ONCE // (self.shape[1] * self.dtype.itemsize))
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield rows, self[rows]

    def min(self) -> Any:
        """The smallest value. All rows are read once, in blocks, for both `min` and `max`."""
        return self._extremes[0]

    def max(self) -> Any:
        """The largest value."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[Any, Any]:
        found = [(block.min(), block.max()) for _, block in self.blocks()]
        lows, highs = numpy.array(found).T
        return lows.min(), highs.max()

    def __reduce__(self) -> tuple[Any, ...]:
        a, root = self.values, _root(self.values)
        assert root is not None
        offset = root.offset + a.ctypes.data - root.ctypes.data
        return _open_rows, (root.filename, a.dtype, a.shape, offset, self.indices)


def _open_rows(
    path: Path,
    dtype: numpy.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    indices: HostArray | None,
) -> MappedRows:
    return MappedRows(numpy.memmap(path, dtype, "r", offset, shape), indices)


def is_mapped(array: object) -> bool:
    """Whether `array` is a memory map or a view of one."""
    return _root(array) is not None


def _root(array: Any) -> numpy.memmap[Any, Any] | None:
    # A copy of a map is a numpy.memmap too, but its memory is not mapped.
    while isinstance(array, numpy.ndarray):
        base: Any = array.base
        if isinstance(array, numpy.memmap) and isinstance(base, mmap.mmap):
            return array
        array = base
    return None
