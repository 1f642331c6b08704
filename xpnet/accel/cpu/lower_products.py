"""Lowers products of matrices and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpnet.accel.cpu import tiles
from xpnet.accel.cpu.blocks import product_block
from xpnet.accel.cpu.layout import (
    ALL,
    GROUPS,
    LINE,
    PARTS,
    SAMPLES,
    SUMMANDS,
    Layout,
    by_blocks,
    by_columns,
    by_samples,
    is_wide,
    natural,
    of_gradient,
    ranges_of,
    summands_of,
)
from xpnet.accel.cpu.lower_base import Base, NotLowered, of_parts, single
from xpnet.accel.cpu.operands import (
    address,
    are_one,
    are_ones,
    is_dense,
    is_flat,
    is_like,
    is_matrix,
    key,
    regions,
    share,
)
from xpnet.accel.cpu.phases import Work
from xpnet.accel.program import Op, factors
from xpnet.backend import Array, zeros

MANY_SAMPLES, FEW_WEIGHTS = 512, 2**14
"""From so many samples on, a gradient of at most so many numbers is a sum: each part multiplies the
samples that it has just read in the forward pass, which are still in its cache."""

MANY_WEIGHTS, MANY_ROWS = 2**19, 256
"""A product with so many weights is not a sum over ranges of columns, which would be more memory to
write and read. From so many rows on, a part has some of them, and not all with fewer columns."""

SHARED_ROWS = 56
"""The most rows of a gradient in a part for which all parts read one copy of dy, if it has more
samples than a panel has values of k: with more rows, the copies that each part makes of what it
reads next take less time."""

FEW_ROWS = 96
"""With fewer, the cells of a product in groups have a quarter of the rows: their tiles read weights
in place, and the columns of x that a part reads are in its cache."""

WIDTH = 64
"""Sums that each part of a product of two vectors computes."""


class Products(Base):
    """Each part computes a cell of the result, or a part of a sum."""

    def look_ahead(self, program: Sequence[Op]) -> None:
        """Learn from all operations how results of products and batches of samples are read."""
        reader: Op | None = None
        for op in filter(_is_forward, reversed(program)):
            is_read = reader is not None and is_like(reader.inputs[0], op.output)
            if reader is None or not (is_read and _is_in_groups(reader)):
                self.read_by_rows.add(id(op))
            reader = op
        for op in program:
            out = op.inputs[-1] if op.is_kernel else op.output
            if op.name in ("take", "gather_scaled") and is_matrix(out):
                others = (other for other in program if other is not op)
                if all(_reads_groups(other, out) for other in others):
                    self.splits[address(out)] = None

    def _op_dot(self, op: Op) -> None:
        a, b = op.inputs
        out: Any = op.output
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            raise NotLowered(str(op))
        if share(a, out) or share(b, out):
            raise NotLowered(str(op))
        if a.ndim == b.ndim == 1:
            self._vectors(a, b, op)
        elif a.ndim == 1 and is_matrix(b) and is_flat(out) and are_ones(a):
            self._column_sums(b, out)
        elif all(is_dense(x) for x in (a, b, out)):
            self._matrices(op, a, b, out)
        else:
            raise NotLowered(str(op))

    _op_matmul = _op_dot

    def _matrices(self, op: Op, a: Array, b: Array, out: Array) -> None:
        """`out = a b`, cut into cells, or for many columns of `a` into sums over ranges of them."""
        rows, columns = out.shape
        if _is_gradient(a):
            if _is_sum(a.shape[1], out) and out.flags.c_contiguous:
                self._sum_of_samples(a, b, out)
            else:
                self._product_by(of_gradient(out), a, b, out)
        elif _is_of_rows(b):
            layout = self.shapes.get(out.shape)
            if rows <= SAMPLES * GROUPS:
                # As few copies of b as by ranges of columns, and no part waits for another.
                layout = by_samples(rows)
            elif columns >= PARTS * LINE:
                layout = by_columns(columns, LINE)
            self._product_by(layout or natural(out), a, b, out)
        elif _is_in_groups(op):
            is_by_rows = id(op) in self.read_by_rows
            layout = by_samples(rows) if is_by_rows else natural(out)
            self._product_in_groups(a, b, out, layout)
        else:
            layout = by_samples(rows)
            if b.size >= MANY_WEIGHTS:
                layout = by_blocks(out) if rows >= MANY_ROWS else by_columns(columns, LINE)
            self._product_by(layout, a, b, out)
            self.shapes[out.shape] = layout

    def _product_by(self, layout: Layout, a: Array, b: Array, out: Array) -> None:
        """Each part computes its own cell of `out`."""
        panels = self._panels(a, b, out) if _is_gradient(a) else None
        works = [self._product(a[r], b[:, c], out[r, c], panels) for r, c in layout]
        self.operations.append(of_parts(works))
        self.layouts[key(out)] = layout
        if out.flags.c_contiguous:
            self.written[address(out)] = out, layout

    def _panels(self, a: Array, b: Array, out: Array) -> Array | None:
        """A copy of `b` in panels of a product, where each part would make a copy of its own."""
        found = tiles.panels()
        if found is None or not (is_matrix(b) and out.flags.c_contiguous):
            return None
        (samples, columns), (width, least_rows, depth) = b.shape, found
        if len(a) < PARTS * least_rows or columns <= width:
            return None
        if samples > depth and len(a) > PARTS * SHARED_ROWS:
            return None
        count = -(-columns // width)
        panels = zeros(np, count * samples * width, b.dtype).reshape(count, samples, width)
        works: list[list[Work]] = []
        for r, c in self._layout(b):
            first, last, _ = c.indices(columns)
            made = []
            for number in range(first // width, -(-last // width)):
                left, right = max(first, number * width), min(last, (number + 1) * width)
                to = panels[number, r, left - number * width : right - number * width]
                made.append(self._work("copyto", to.shape, [b[r, left:right], to], [to]))
            works.append([work for work in made if work is not None])
        self.operations.append(of_parts(works))
        return panels

    def _product_in_groups(self, a: Array, b: Array, out: Array, layout: Layout) -> None:
        """`a b` as a sum over ranges of the columns of `a`, each computed by half of the parts."""
        rows, columns = out.shape
        partial = np.zeros((SUMMANDS, rows, columns), out.dtype)
        self.kept.append(partial)
        across, down = PARTS // SUMMANDS, 1
        if not is_wide(columns):
            across, down = 1, across
        elif rows < FEW_ROWS:
            across, down = across // GROUPS, GROUPS
        cells = [(r, c) for r in ranges_of(rows, down) for c in ranges_of(columns, across, LINE)]
        works = [
            self._product(a[r, k], b[k, c], part[r, c])
            for k, part in zip(summands_of(a.shape[1]), partial, strict=True)
            for r, c in cells
        ]
        self.operations.append(of_parts(works))
        self._sum(partial, layout, out)
        self.shapes[out.shape] = self.layouts[key(out)]

    def _sum_of_samples(self, a: Array, b: Array, out: Array) -> None:
        """`a b`, where each part has its own columns of `a` and rows of `b`."""
        # Transposed: `b^T a^T` reads `a^T`, the larger of the two, along its rows.
        partial = self._partial(out, out.shape[::-1])
        ranges = zip(ranges_of(a.shape[1], PARTS), partial, strict=True)
        self.operations.append(of_parts(self._product(a[:, k], b[k], to.T) for k, to in ranges))
        works, layout = [], of_gradient(out)
        for cell in layout:
            pieces, to = [part.T[cell] for part in partial], out[cell]
            given = [pieces[0].T, to, partial.strides[0], PARTS]
            works.append(self._work("sum_transposed", to.shape, given, [to, pieces[0]], pieces))
        # Added up only when it is needed: a part first does more with its own samples.
        self.late.append((out, of_parts(works)))
        self.layouts[key(out)] = layout
        self.written[address(out)] = out, layout

    def _partial(self, out: Array, shape: tuple[int, ...]) -> Array:
        """A matrix or vector for each part, whose sum is `out`."""
        if key(out) not in self.partials:
            self.partials[key(out)] = np.zeros((PARTS, *shape), out.dtype)
        return self.partials[key(out)]

    def _sum(self, partial: Array, layout: Layout, out: Array) -> None:
        """`out`, the sum of the matrices in `partial`, in cells of `layout`."""
        works = []
        for cell in layout:
            pieces, to = [part[cell] for part in partial], out[cell]
            given = [pieces[0], to, partial.strides[0], len(partial)]
            works.append(self._work("sum_parts", to.shape, given, [to], pieces))
        self.operations.append(of_parts(works))
        self.layouts[key(out)] = layout

    def _vectors(self, a: Array, b: Array, op: Op) -> None:
        """`out = a · b` of two vectors: `WIDTH` sums of each part, then the sum of all."""
        out = op.output
        if out is None or not (is_flat(a) and is_flat(b) and out.dtype == a.dtype):
            raise NotLowered(str(op))
        sums = np.zeros((PARTS, WIDTH), out.dtype)
        works = [
            self._work("dot", (1, a[c].size), [a[c], b[c], to, WIDTH], [to])
            for c, to in zip(ranges_of(a.size, PARTS, LINE), sums, strict=True)
        ]
        self.operations.append(of_parts(works))
        total = self._work("total", sums.shape, [sums, out], [out])
        assert total is not None
        self.operations.append(single(total))

    def _product(self, a: Array, b: Array, out: Array, panels: Array | None = None) -> list[Work]:
        """`out = a b`; `panels`: a copy of `b`, see `product_block`."""
        if 0 in out.shape or a.shape[1] == 0:
            return []
        split = next((s for s in self.splits.values() if s is not None and s.holds(a)), None)
        if split is None:
            return [self._product_of(a, b, out, panels=panels)]
        if _is_gradient(a):
            pieces = split.pieces(a.T)
            return [self._product_of(x.T, b, out[r], panels=panels) for r, x in pieces]
        # The first piece begins the sums, and the others continue them.
        numbered = enumerate(split.pieces(a))
        return [self._product_of(x, b[k], out, add=number > 0) for number, (k, x) in numbered]

    def _product_of(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        add: bool = False,
        panels: Array | None = None,
    ) -> Work:
        found = product_block(a, b, out, add, panels)
        reads = [a, b if panels is None else panels.reshape(-1, panels.shape[2])]
        self.kept += [found, *reads, out]
        return Work("product", found, regions([*reads, *([out] if add else [])]), regions([out]))

    def _column_sums(self, a: Array, out: Array) -> None:
        is_late = _is_sum(len(a), out)
        if is_late:
            partial = self._partial(out, out.shape)
            pairs = zip(ranges_of(len(a), PARTS), partial, strict=True)
            works = [self._work("column_sums", a[r].shape, [a[r], to], [to]) for r, to in pairs]
            self.operations.append(of_parts(works))
            a = partial
        works = []
        ranges = ranges_of(a.shape[1], PARTS, LINE)
        for columns in ranges:
            given = [a[:, columns], out[columns]]
            works.append(self._work("column_sums", given[0].shape, given, given[1:]))
        if is_late:
            self.late.append((out, of_parts(works)))
        else:
            self.operations.append(of_parts(works))
        self.written[address(out)] = out.reshape(-1, 1), [(c, ALL) for c in ranges]


def _is_gradient(a: Array) -> bool:
    """Whether `a` is a transposed batch: the numbers of a column lie side by side."""
    return bool(a.strides[0] == a.itemsize and a.shape[0] > 1)


def _is_of_rows(b: Array) -> bool:
    """Whether `b` is a transposed matrix of weights."""
    return bool(b.strides[0] == b.itemsize and b.shape[1] > 1)


def _is_forward(op: Op) -> bool:
    """Whether `op` is a product of samples and weights, as in a forward pass."""
    found = factors(op)
    return found is not None and not _is_gradient(found[0]) and not _is_of_rows(found[1])


def _is_in_groups(op: Op) -> bool:
    """Whether a product of the forward pass is a sum over ranges of columns."""
    a, b = op.inputs
    assert op.output is not None
    has_size = 16_384 <= b.size < MANY_WEIGHTS
    return is_wide(a.shape[1]) and has_size and bool(op.output.flags.c_contiguous)


def _reads_groups(op: Op, batch: Array) -> bool:
    """Whether `op` leaves `batch` alone, or reads the whole of it by ranges of columns only."""
    if not any(share(array, batch) for array in (*op.inputs, op.output)):
        return True
    found = factors(op)
    if op.is_kernel or found is None or share(found[1], batch) or share(op.output, batch):
        return False
    a, _ = found
    if not all(is_dense(array) for array in (*found, op.output)):
        return False
    return are_one(a.T, batch) or (are_one(a, batch) and _is_in_groups(op))


def _is_sum(samples: int, gradient: Array) -> bool:
    """Whether each part finds the gradient of its own samples, and then all are added."""
    return samples >= MANY_SAMPLES and gradient.size <= FEW_WEIGHTS
