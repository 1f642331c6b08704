"""The memory that a part of an operation reads or writes."""

from __future__ import annotations

from dataclasses import dataclass

from xpnet.backend import Array

Range = tuple[int, int]
"""From, and up to but not including."""


@dataclass(frozen=True, slots=True)
class Region:
    """`rows` stretches of `width` bytes; one begins `step` bytes after the other."""

    start: int
    rows: int
    step: int
    width: int

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.start + (self.rows - 1) * self.step + self.width

    def overlaps(self, other: Region) -> bool:
        """Whether they share a byte; also true where that is not known."""
        if not (self.rows and self.width and other.rows and other.width):
            return False
        if self.end <= other.start or other.end <= self.start:
            return False
        # Two blocks of columns of one matrix.
        if self.step == other.step and self.rows > 1 and other.rows > 1:
            offset = (other.start - self.start) % self.step
            return offset < self.width or offset + other.width > self.step
        return True


EVERYTHING = Region(0, 1, 0, 2**62)
"""All memory."""


def region(array: Array, rows: Range | None = None, columns: Range | None = None) -> Region:
    """Rows and columns of `array`, a matrix in C or in Fortran order, or a vector as one row.

    Raises `ValueError` for other arrays.
    """
    if array.ndim < 2:
        array = array.reshape(1, -1)
    itemsize = array.itemsize
    if array.ndim != 2 or itemsize not in array.strides:
        raise ValueError(f"no region of an array of shape {array.shape}, strides {array.strides}")
    down, across = array.strides
    first, last = rows or (0, array.shape[0])
    left, right = columns or (0, array.shape[1])
    start = array.ctypes.data + first * down + left * across
    if across == itemsize:
        return Region(start, last - first, down, (right - left) * itemsize)
    return Region(start, right - left, across, (last - first) * itemsize)
