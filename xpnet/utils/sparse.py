"""Rows of a sparse matrix, sliced on the host, and the order in which products with them add up.

SciPy is not imported: a sparse matrix is recognised by its methods.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy

from xpnet.backend import HostArray
from xpnet.errors import DataError

LONGEST = 256
PIECE = 64
"""Entries of a row that are added up one after the other, and of each piece of a longer row."""


class Diagonals(NamedTuple):
    """The entries of the rows (or columns) of a sparse matrix, in jagged diagonal storage.

    The rows that have entries are sorted by how many, the longest first. Diagonal `k` is the k-th
    entry of each row that has so many: entry `k` of sorted row `s` is number `offsets[k] + s`,
    below `offsets[k + 1]`. So the sums over the entries of all rows are one operation on arrays for
    each diagonal, and their order is fixed. Y. Saad, "Krylov subspace methods on supercomputers",
    SIAM J. Sci. Stat. Comput. 10, 1989.

    `targets` `(S,)`: which row each sorted row is; `offsets` `(K + 1,)`; `indices` `(E,)`: the
    column of each entry; all int64. `values` `(E,)`. `shape`: of the matrix.
    """

    targets: HostArray
    offsets: HostArray
    indices: HostArray
    values: HostArray
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        targets: HostArray,
        starts: HostArray,
        indices: HostArray,
        values: HostArray,
        shape: tuple[int, int],
    ) -> Diagonals:
        """`starts` `(S + 1,)`: where the entries of row `targets[s]` start, and where they end."""
        sizes = numpy.diff(starts)
        order = numpy.argsort(-sizes, kind="stable")[: numpy.count_nonzero(sizes)]
        most = int(sizes.max(initial=0))
        # How many rows have more than k entries.
        counts = len(sizes) - numpy.cumsum(numpy.bincount(sizes, minlength=most))[:most]
        offsets = numpy.concatenate([[0], numpy.cumsum(counts)])
        number = numpy.repeat(numpy.arange(most), counts)
        within = numpy.arange(len(number)) - numpy.repeat(offsets[:-1], counts)
        entries = starts[order][within] + number
        return cls(
            targets[order].astype(numpy.int64),
            offsets.astype(numpy.int64),
            indices[entries].astype(numpy.int64),
            values[entries],
            shape,
        )


def sums_over(
    targets: HostArray,
    starts: HostArray,
    indices: HostArray,
    values: HostArray,
    shape: tuple[int, int],
) -> tuple[Diagonals, ...]:
    """A product with a sparse matrix as one sum over its entries or, of long rows, several.

    Diagonals that a few rows have alone are as many operations as others. So the entries of rows
    longer than `LONGEST` are added up in pieces of `PIECE`, and then the sums of the pieces.
    Arguments as for `Diagonals.of`.
    """
    sizes = numpy.diff(starts)
    if sizes.max(initial=0) <= LONGEST:
        return (Diagonals.of(targets, starts, indices, values, shape),)
    pieces = -(-sizes // PIECE)
    firsts = numpy.concatenate([[0], numpy.cumsum(pieces)])
    count = int(firsts[-1])
    number = numpy.arange(count) - numpy.repeat(firsts[:-1], pieces)
    cuts = numpy.append(numpy.repeat(starts[:-1], pieces) + PIECE * number, starts[-1])
    numbers, ones = numpy.arange(count), numpy.ones(count, values.dtype)
    of_pieces = Diagonals.of(numbers, cuts, indices, values, (count, shape[1]))
    return of_pieces, *sums_over(targets, firsts, numbers, ones, (shape[0], count))


class SparseRows:
    """Rows `(N, features)` of which only entries are stored, in NumPy arrays on the host.

    `starts` `(N + 1,)`: the entries of row `n` are numbers `starts[n]` to `starts[n + 1]`;
    `indices`, `values`: the column and value of each. This is the CSR format of `scipy.sparse`,
    whose arrays are not copied. An entry may be 0, and several of one row and column are added.
    """

    ndim = 2

    def __init__(
        self, starts: HostArray, indices: HostArray, values: HostArray, features: int
    ) -> None:
        self.starts, self.indices, self.values = starts, indices, values
        self.features = features

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, features)`."""
        return len(self), self.features

    @property
    def dtype(self) -> numpy.dtype[Any]:
        """The dtype of the values."""
        dtype: numpy.dtype[Any] = self.values.dtype
        return dtype

    def astype(self, dtype: Any) -> SparseRows:
        """The same rows with values of `dtype`; not copied if they have it already."""
        values = self.values.astype(dtype, copy=False)
        return SparseRows(self.starts, self.indices, values, self.features)

    def __getitem__(self, rows: slice | HostArray) -> SparseRows:
        """Some of the rows: a slice (not copied, if its step is 1), or those at indices `(n,)`."""
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step == 1:
                starts = self.starts[first : max(first, last) + 1]
                some = slice(int(starts[0]), int(starts[-1]))
                inside = starts - starts[0]
                return SparseRows(inside, self.indices[some], self.values[some], self.features)
            rows = numpy.arange(first, last, step)
        sizes = self.starts[rows + 1] - self.starts[rows]
        starts = numpy.concatenate([[0], numpy.cumsum(sizes)])
        entries = numpy.arange(starts[-1]) + numpy.repeat(self.starts[rows] - starts[:-1], sizes)
        return SparseRows(starts, self.indices[entries], self.values[entries], self.features)

    def position(self, entry: int) -> tuple[int, int]:
        """The row and column of an entry, by its number."""
        row = int(numpy.searchsorted(self.starts, entry, side="right")) - 1
        return row, int(self.indices[entry])

    @cached_property
    def by_row(self) -> tuple[Diagonals, ...]:
        """The entries of each row: `targets` are rows and `indices` columns."""
        rows = numpy.arange(len(self))
        return sums_over(rows, self.starts, self.indices, self.values, self.shape)

    @cached_property
    def by_column(self) -> tuple[Diagonals, ...]:
        """The entries of each column, by rows: `targets` are columns and `indices` rows."""
        count = len(self.indices)
        rows = numpy.repeat(numpy.arange(len(self)), numpy.diff(self.starts))
        # NumPy sorts numbers faster than it finds their order; each is a column and an entry.
        bits = count.bit_length()
        if self.features.bit_length() + bits < 64:
            keys = (self.indices.astype(numpy.int64) << bits) | numpy.arange(count)
            keys.sort()
            entries = keys & ((1 << bits) - 1)
        else:
            entries = numpy.argsort(self.indices, kind="stable")
        columns = self.indices[entries]
        is_first = numpy.diff(columns, prepend=-1) != 0
        starts = numpy.append(numpy.flatnonzero(is_first), count)
        values, shape = self.values[entries], self.shape[::-1]
        return sums_over(columns[is_first], starts, rows[entries], values, shape)


def is_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix or array of SciPy, or another library's, or `SparseRows`."""
    return isinstance(x, SparseRows) or hasattr(x, "toarray")


def rows_of(x: Any, name: str) -> SparseRows:
    """A matrix or array of `scipy.sparse`, of any format, as rows. Raises `DataError`."""
    kind = type(x).__name__
    csr = x.tocsr() if hasattr(x, "tocsr") and len(x.shape) == 2 else x
    parts: list[Any] = [getattr(csr, part, None) for part in ("indptr", "indices", "data")]
    if not all(isinstance(part, numpy.ndarray) for part in parts) or len(csr.shape) != 2:
        raise DataError(
            f"{name} is a {kind} of shape {tuple(x.shape)}: give a matrix (N, features) of "
            f"scipy.sparse, such as csr_array, or a dense one, .toarray()"
        )
    starts, indices, values = parts
    count, features = csr.shape
    fits = len(starts) == count + 1 and starts[0] == 0 and not (numpy.diff(starts) < 0).any()
    fits = fits and starts[-1] <= min(len(indices), len(values))
    if fits:
        # The arrays of a matrix that was changed in place may be longer.
        indices, values = indices[: starts[-1]], values[: starts[-1]]
        fits = not len(indices) or bool(indices.min() >= 0 and indices.max() < features)
    # Nothing else would notice, and a kernel would read and write outside of the arrays.
    if not fits:
        raise DataError(
            f"{name} is a damaged {kind}: its indptr or indices are out of range "
            f"(its check_format() says more)"
        )
    return SparseRows(starts, indices, values, features)
