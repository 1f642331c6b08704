"""A batch of samples whose ranges of columns are arrays of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xpnet.accel.cpu.operands import address
from xpnet.backend import Array, zeros


class SplitBatch:
    """Takes the place of `matrix` `(N, F)`, contiguous: an array for each of the ranges of columns.

    In one array each row would end where another thread's part of it begins. A processor that reads
    its own part in order fetches some lines beyond the end as well, and takes them away from the
    core that will write them in the next step.
    """

    def __init__(self, matrix: Array, ranges: Sequence[slice]) -> None:
        self._start, self._rows = address(matrix), len(matrix)
        self._itemsize, self._row = matrix.itemsize, matrix.shape[1] * matrix.itemsize
        self._ranges = ranges
        widths = [columns.stop - columns.start for columns in ranges]
        self._arrays = [
            zeros(np, self._rows * width, matrix.dtype).reshape(self._rows, width)
            for width in widths
        ]

    def pieces(self, cell: Array) -> Iterator[tuple[slice, Array]]:
        """The columns of `cell`, a view of the matrix, that lie in one array, and what is there."""
        down, across = divmod(address(cell) - self._start, self._row)
        first, rows = across // self._itemsize, slice(down, down + len(cell))
        last = first + cell.shape[1]
        for columns, array in zip(self._ranges, self._arrays, strict=True):
            start, stop = max(first, columns.start), min(last, columns.stop)
            if start < stop:
                inside = slice(start - columns.start, stop - columns.start)
                yield slice(start - first, stop - first), array[rows, inside]

    def holds(self, view: Array) -> bool:
        """Whether `view` is one of the matrix, or of its transposed."""
        first = address(view) - self._start
        return bool(0 <= first < self._rows * self._row)
