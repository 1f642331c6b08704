"""Which part of the work owns which rows and columns of a matrix.

The cut depends on the shape alone, not on the number of threads: so do the results. A wide matrix
is cut into `GROUPS` ranges of columns, each into `PARTS // GROUPS` ranges of rows; a narrow one,
and the gradient of weights, by its rows; `dy Wᵀ` by its columns; the gradient of few weights is a
sum over rows of x and dy. A sum of products is cut by samples if the next product reads samples.
The first ranges belong to the first threads, so that a thread finds in its caches much of what it
has written itself: columns of x, the rows of the weights that they are multiplied with, and the
gradient and the optimizer's state of these rows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

from xpnet.backend import Array

PARTS = 16
"""Parts of an operation: as many threads can take part in a step."""

GROUPS = 4
"""Ranges of columns of a wide matrix."""

LINE = 16
"""Ranges of columns begin at multiples of this: 64 bytes of float32."""

TILE_ROWS = 6
"""Rows of a tile of a product."""

SAMPLES = 4
"""Samples of a part of a small batch; the last part may have fewer."""

SUMMANDS = 2
"""Summands of a product that sums over ranges of columns: more would be more memory to add up."""

Cell: TypeAlias = tuple[slice, slice]
"""Rows and columns."""

Layout: TypeAlias = list[Cell]
"""The cell of each part; it may be empty."""

ALL = slice(None)


def ranges_of(count: int, parts: int, unit: int = 1) -> list[slice]:
    """`count` rows or columns in `parts` ranges, which begin at multiples of `unit`."""
    units = -(-count // unit)
    starts = [min(count, unit * (units * part // parts)) for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(starts)]


def summands_of(columns: int) -> list[slice]:
    """The ranges of columns of a product that is a sum over them."""
    return ranges_of(columns, SUMMANDS, LINE // 2)


def is_wide(columns: int) -> bool:
    """Whether a matrix is cut into ranges of columns."""
    return columns >= GROUPS * LINE


def natural(matrix: Array) -> Layout:
    """The layout of a matrix that nothing else decides."""
    rows, columns = matrix.shape
    if not is_wide(columns):
        return by_samples(rows)
    across, down = ranges_of(columns, GROUPS, LINE), ranges_of(rows, PARTS // GROUPS)
    return [(r, c) for c in across for r in down]


def by_blocks(matrix: Array) -> Layout:
    """Two ranges of rows, so that few parts copy the same weights; the natural layout if narrow."""
    rows, columns = matrix.shape
    if columns < PARTS // 2 * LINE:
        return natural(matrix)
    across = ranges_of(columns, PARTS // 2, LINE)
    return [(r, c) for c in across for r in ranges_of(rows, 2)]


def by_rows(rows: int, unit: int = 1) -> Layout:
    """Ranges of rows, in all columns."""
    return [(r, ALL) for r in ranges_of(rows, PARTS, unit)]


def by_samples(rows: int) -> Layout:
    """Ranges of samples, in all columns; of four in a small batch: a tile reads weights once."""
    return by_rows(rows, SAMPLES if rows <= SAMPLES * PARTS else 1)


def by_columns(columns: int, unit: int = 1) -> Layout:
    """Ranges of columns, in all rows."""
    return [(ALL, c) for c in ranges_of(columns, PARTS, unit)]


def of_gradient(matrix: Array) -> Layout:
    """The layout of a gradient of weights: whole rows, so that an update reads memory in order.

    From 256 rows on they are the columns of `dy Wᵀ`: the part that reads rows of W there may update
    them at once. With 96 to 255 rows, every part but the last has whole tiles.
    """
    rows = len(matrix)
    unit = next((unit for unit in (LINE, TILE_ROWS) if rows >= PARTS * unit), 1)
    return by_rows(rows, unit)
