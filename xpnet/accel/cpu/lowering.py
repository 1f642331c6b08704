"""Lowers the operations of a recorded step to compiled loops on parts of arrays.

Each operation becomes one call of a loop for each of `PARTS` parts, with the memory that it reads
and writes; `phases` then puts operations together whose parts do not meet. Raises `NotLowered` for
an operation that has no loop, or arrays that no loop takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xpnet.accel.cpu import tiles
from xpnet.accel.cpu.blocks import Each, block, product_block
from xpnet.accel.cpu.layout import (
    ALL,
    GROUPS,
    LINE,
    PARTS,
    Cell,
    Layout,
    by_columns,
    by_rows,
    cut,
    grid,
    is_wide,
    natural,
)
from xpnet.accel.cpu.phases import Work
from xpnet.accel.cpu.regions import region
from xpnet.accel.program import Op
from xpnet.backend import Array

Parts: TypeAlias = list[list[Work]]


class NotLowered(Exception):
    """An operation for which there is no loop."""


def of_parts(works: Iterable[Work | None]) -> Parts:
    """An operation whose parts have one piece of work, or none."""
    return [[] if work is None else [work] for work in works]


def single(work: Work, part: int = PARTS - 1) -> Parts:
    """An operation that one part does alone."""
    return [[work] if number == part else [] for number in range(PARTS)]


class Lowering:
    """The operations of a step, lowered one after the other.

    `tables`: `(steps, n)`; in step `s` row `s` of each takes the place of its row 0.
    """

    def __init__(self, tables: Sequence[Array] = ()) -> None:
        self.each = {_at(table): table for table in tables}
        self.layouts: dict[int, Layout] = {}
        self.written: dict[int, tuple[Array, Layout]] = {}
        self.kept: list[Array] = []
        self.late: list[tuple[Array, Parts]] = []
        self.operations: list[Parts] = []

    def add(self, op: Op) -> None:
        """Lower `op`. Raises `NotLowered`."""
        name = ("kernel_" if op.is_kernel else "op_") + op.name
        lower: Callable[[Op], None] | None = getattr(self, name, None)
        if lower is None:
            raise NotLowered(str(op))
        lower(op)

    def end(self) -> list[Parts]:
        """All operations; those that could wait come last."""
        self.operations += [parts for _, parts in self.late]
        self.late.clear()
        return self.operations

    def needs(self, *arrays: Array) -> None:
        """Add the operations that wait and write one of `arrays`."""
        ready = [late for late in self.late if any(late[0] is array for array in arrays)]
        self.operations += [parts for _, parts in ready]
        self.late = [late for late in self.late if late not in ready]

    def layout(self, matrix: Array) -> Layout:
        """The cells of a matrix: as it was written, else the natural ones."""
        return self.layouts.setdefault(_at(matrix), natural(matrix))

    def rows_of(self, vector: Array) -> Array:
        """The table of which `vector` is row 0; of another vector, one with itself in each row."""
        table = self.each.get(_at(vector))
        if table is not None and table.shape[1:] == vector.shape:
            return table
        return np.lib.stride_tricks.as_strided(vector, (1, *vector.shape), (0, *vector.strides))

    # Loops over the elements of matrices of one shape

    def elements(
        self,
        loop: str,
        inputs: Sequence[Any],
        outputs: Sequence[Array],
        arguments: Sequence[Any] | None = None,
    ) -> None:
        """`loop` of matrices of one shape and of vectors, a number for each column."""
        first = next(a for a in (*inputs, *outputs) if _is_matrix(a))
        layout = self.layout(first)
        given = arguments if arguments is not None else [*inputs, *outputs]
        works = []
        for cell in layout:
            ins, outs = ([_part(a, cell) for a in arrays] for arrays in (inputs, outputs))
            shape = outs[0].shape if outs[0].ndim == 2 else (1, outs[0].size)
            works.append(self.work(loop, shape, [_part(a, cell) for a in given], ins, outs))
        for output in outputs:
            self.layouts[_at(output)] = layout
        self.operations.append(of_parts(works))

    def work(
        self,
        loop: str,
        shape: tuple[int, ...],
        arguments: Sequence[Any],
        reads: Iterable[Any],
        writes: Iterable[Array],
    ) -> Work | None:
        """One call of `loop`; None where there is nothing to do."""
        if 0 in shape:
            return None
        found = block(shape, *arguments)
        self.kept += [found, *(a for a in arguments if isinstance(a, np.ndarray))]
        return Work(loop, found, _regions(reads), _regions(writes))

    def op_add(self, op: Op) -> None:
        self.arithmetic("add", op)

    def op_multiply(self, op: Op) -> None:
        self.arithmetic("multiply", op)

    def arithmetic(self, loop: str, op: Op) -> None:
        a, b = op.inputs
        out = op.output
        if op.options or not (_is_matrix(out) and _is_like(a, out)):
            raise NotLowered(str(op))
        if not (_is_like(b, out) or _is_vector(b, out)):
            raise NotLowered(str(op))
        self.elements(loop, [a, b], [out])

    def op_exp(self, op: Op) -> None:
        self.unary("exp", op)

    def op_tanh(self, op: Op) -> None:
        self.unary("tanh", op)

    def unary(self, loop: str, op: Op) -> None:
        (x,) = op.inputs
        if op.options or not (_is_matrix(op.output) and _is_like(x, op.output)):
            raise NotLowered(str(op))
        self.elements(loop, [x], [op.output])

    def kernel_relu(self, op: Op) -> None:
        self.kernel_elements(op, 1)

    def kernel_relu_backward(self, op: Op) -> None:
        self.kernel_elements(op, 2)

    def kernel_tanh_backward(self, op: Op) -> None:
        self.kernel_elements(op, 2)

    def kernel_sigmoid_backward(self, op: Op) -> None:
        self.kernel_elements(op, 2)

    def kernel_elements(self, op: Op, inputs: int) -> None:
        arrays = op.inputs
        if not all(_is_matrix(a) and _is_like(a, arrays[-1]) for a in arrays):
            raise NotLowered(str(op))
        self.elements(op.name, arrays[:inputs], arrays[inputs:])

    def kernel_add_relu(self, op: Op) -> None:
        y, bias, r = op.inputs
        self.elements("add_relu", [y, bias], [y, r], [y, bias, r])

    # Batches

    def op_take(self, op: Op) -> None:
        source, indices = op.inputs
        table, out = self.rows_of(indices), op.output
        if out.ndim == 1 and out.dtype == source.dtype == np.int64:
            works = [
                self.work(
                    "gather_integers",
                    (out[rows].size, 1),
                    [source, Each(table[:, rows]), out[rows]],
                    [],
                    [out[rows]],
                )
                for rows in cut(out.size, PARTS)
            ]
            self.operations.append(of_parts(works))
        elif _is_matrix(out) and source.dtype == out.dtype:
            self.gather("gather", source, table, out)
        else:
            raise NotLowered(str(op))

    def kernel_gather_scaled(self, op: Op) -> None:
        source, indices, scale, shift, out = op.inputs
        table = self.rows_of(indices)
        if source.dtype != np.uint8:
            raise NotLowered(str(op))
        # A shift of -0 changes nothing, and the formula leaves a shift of 0 out.
        self.gather("gather_scaled", source, table, out, float(scale), float(shift) or -0.0)

    def gather(self, loop: str, source: Array, table: Array, out: Array, *numbers: float) -> None:
        works = []
        for rows, columns in self.layout(out):
            to, each = out[rows, columns], Each(table[:, rows])
            given: list[Any] = [source[:, columns], each, *numbers, to]
            if not numbers:
                given = [source[:, columns], each, to]
            works.append(self.work(loop, to.shape, given, [], [to]))
        self.operations.append(of_parts(works))

    # Products of matrices

    def op_dot(self, op: Op) -> None:
        a, b = op.inputs
        if a.ndim == 1 and b.ndim == 2 and (a == 1).all():
            self.column_sums(b, op.output)
        elif a.ndim == b.ndim == 2 and op.output.dtype == np.float32:
            self.matrices(a, b, op.output)
        else:
            raise NotLowered(str(op))

    def op_matmul(self, op: Op) -> None:
        self.op_dot(op)

    def matrices(self, a: Array, b: Array, out: Array) -> None:
        """`out = a b`, cut so that each part reads as little of `b` as possible, which it copies."""
        rows, columns = out.shape
        is_gradient = a.strides[0] == a.itemsize and a.shape[0] > 1
        is_of_rows = b.strides[0] == b.itemsize and b.shape[1] > 1
        if is_gradient:
            # Rows of xᵀ dy are columns of x: as those are cut.
            is_cut = is_wide(rows) and is_wide(columns)
            unit = LINE if is_wide(rows) else 1
            self.product_by(grid(rows, columns) if is_cut else by_rows(rows, unit), a, b, out)
        elif is_of_rows:
            is_cut = columns >= PARTS * LINE
            self.product_by(by_columns(columns, LINE) if is_cut else natural(out), a, b, out)
        elif is_wide(a.shape[1]) and b.size >= 16_384:
            self.product_in_groups(a, b, out)
        else:
            self.product_by(by_rows(rows), a, b, out)

    def product_by(self, layout: Layout, a: Array, b: Array, out: Array) -> None:
        """Each part computes its own cell of `out`."""
        works = [self.product(a[r], b[:, c], out[r, c]) for r, c in layout]
        self.operations.append(of_parts(works))
        self.layouts[_at(out)] = layout
        self.written[_at(out)] = out, layout

    def product_in_groups(self, a: Array, b: Array, out: Array) -> None:
        """`a b` as a sum over ranges of the columns of `a`, each product by the parts of a range."""
        rows, columns = out.shape
        partial = np.zeros((GROUPS, rows, columns), out.dtype)
        self.kept.append(partial)
        ranges = cut(columns, PARTS // GROUPS, LINE)
        cells = [(ALL, c) for c in ranges]
        if not is_wide(columns):
            cells = [(r, ALL) for r in cut(rows, PARTS // GROUPS)]
        works = [
            self.product(a[r, k], b[k, c], part[r, c])
            for k, part in zip(cut(a.shape[1], GROUPS, LINE), partial, strict=True)
            for r, c in cells
        ]
        self.operations.append(of_parts(works))
        summed = []
        cells = natural(out)
        for cell in cells:
            pieces, to = [part[cell] for part in partial], out[cell]
            given = [pieces[0], to, partial.strides[0], GROUPS]
            summed.append(self.work("sum_parts", to.shape, given, pieces, [to]))
        self.operations.append(of_parts(summed))
        self.layouts[_at(out)] = cells

    def product(self, a: Array, b: Array, out: Array) -> Work | None:
        if 0 in out.shape or a.shape[1] == 0:
            return None
        found = product_block(a, b, out)
        self.kept += [found, a, b, out]
        return Work("product", found, _regions([a, b]), _regions([out]))

    def column_sums(self, a: Array, out: Array) -> None:
        works = []
        ranges = cut(a.shape[1], PARTS, LINE)
        for columns in ranges:
            given = [a[:, columns], out[columns]]
            works.append(
                self.work("column_sums", given[0].shape, given, given[:1], given[1:])
            )
        self.operations.append(of_parts(works))
        self.written[_at(out)] = out.reshape(-1, 1), [(c, ALL) for c in ranges]

    # The loss and the metrics

    def kernel_shift_logits(self, op: Op) -> None:
        logits, shifted = op.inputs
        works = [
            self.work(
                "shift_logits",
                logits[r].shape,
                [logits[r], shifted[:, r]],
                [logits[r]],
                [shifted[:, r]],
            )
            for r, _ in by_rows(len(logits))
        ]
        self.operations.append(of_parts(works))
        self.layouts[_at(shifted)] = by_columns(len(logits))

    def kernel_softmax_cross_entropy(self, op: Op) -> None:
        shifted, labels, smoothing, p, value = op.inputs
        losses = np.zeros(p.shape[1])
        self.kept.append(losses)
        works = []
        for _, c in by_columns(p.shape[1]):
            arrays = [shifted[:, c], labels[c], p[:, c], losses[c]]
            given = [arrays[0], labels[c], float(smoothing), p[:, c], losses[c]]
            # Floats of the block have the dtype of p: the losses are float64.
            works.append(
                self.work("softmax_cross_entropy", p[:, c].shape[::-1], given, arrays, arrays[2:])
            )
        self.operations.append(of_parts(works))
        mean = self.work("mean_loss", (len(losses), 1), [losses, value], [losses], [value])
        assert mean is not None
        self.late.append((value, single(mean)))

    def kernel_softmax_cross_entropy_backward(self, op: Op) -> None:
        p, labels, smoothing, scale, out = op.inputs
        works = []
        for r, _ in by_rows(len(out)):
            given = [p[:, r], labels[r], float(smoothing), float(scale), out[r]]
            arrays = [p[:, r], labels[r]]
            works.append(
                self.work("softmax_cross_entropy_backward", out[r].shape, given, arrays, [out[r]])
            )
        self.operations.append(of_parts(works))
        self.layouts[_at(out)] = by_rows(len(out))

    def kernel_add_loss(self, op: Op) -> None:
        value, samples, total = op.inputs
        self.needs(value)
        work = self.work("add_loss", (1, 1), [value, int(samples), total], [value], [total])
        assert work is not None
        self.operations.append(single(work))

    def kernel_count_hits(self, op: Op) -> None:
        logits, labels, hits = op.inputs
        works = [
            # Additions to `hits` are atomic: in any order.
            self.work(
                "count_hits",
                logits[r].shape,
                [logits[r], labels[r], hits],
                [logits[r], labels[r]],
                [],
            )
            for r, _ in by_rows(len(logits))
        ]
        self.operations.append(of_parts(works))

    # Updates

    def kernel_descend(self, op: Op) -> None:
        values, gradients, scalars = op.inputs
        self.update("descend", [values, gradients], [values], scalars)

    def kernel_adam(self, op: Op) -> None:
        values, gradients, first, second, scalars, beta1, beta2 = op.inputs
        numbers = float(beta1), float(beta2)
        arrays = [values, gradients, first, second]
        self.update("adam", arrays, [values, first, second], scalars, *numbers)

    def update(
        self,
        loop: str,
        arrays: Sequence[Array],
        changed: Sequence[Array],
        scalars: Array,
        *numbers: float,
    ) -> None:
        """A loop over flat arrays, cut as the gradients `arrays[1]` are."""
        table = self.rows_of(scalars)
        parts: Parts = [[] for _ in range(PARTS)]
        for part, piece in self.pieces(arrays[1]):
            given, out = ([piece(array) for array in each] for each in (arrays, changed))
            work = self.work(loop, given[0].shape, [*given, Each(table), *numbers], given, out)
            if work is not None:
                parts[part].append(work)
        self.operations.append(parts)

    def pieces(self, flat: Array) -> list[tuple[int, Piece]]:
        """Matrices that make up `flat`, each with the part that wrote it.

        What no part wrote is cut evenly.
        """
        start, end = _at(flat), _at(flat) + flat.nbytes
        found: list[tuple[int, Piece]] = []
        covered = []
        for address, (array, layout) in self.written.items():
            if start <= address < end:
                first = (address - start) // flat.itemsize
                covered.append((first, first + array.size))
                found += [(n, Piece(first, array.shape, cell)) for n, cell in enumerate(layout)]
        at = 0
        for first, last in [*sorted(covered), (flat.size, flat.size)]:
            for part, columns in enumerate(cut(first - at, PARTS, LINE)):
                found.append((part, Piece(at, (1, first - at), (ALL, columns))))
            at = last
        return found


@dataclass(frozen=True)
class Piece:
    """A cell of the matrix of `shape` that begins at number `first` of a flat array."""

    first: int
    shape: tuple[int, ...]
    cell: Cell

    def __call__(self, flat: Array) -> Array:
        size = self.shape[0] * self.shape[1]
        return flat[self.first : self.first + size].reshape(self.shape)[self.cell]


def _at(array: Array) -> int:
    return int(array.ctypes.data)


def _is_matrix(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.ndim == 2 and array.flags.c_contiguous


def _is_like(a: Any, out: Array) -> bool:
    return _is_matrix(a) and a.shape == out.shape and a.dtype == out.dtype


def _is_vector(a: Any, out: Array) -> bool:
    """A number for each column, such as a bias."""
    is_one = isinstance(a, np.ndarray) and a.shape == out.shape[1:] and a.flags.c_contiguous
    return is_one and a.dtype == out.dtype


def _part(array: Any, cell: tuple[slice, slice]) -> Any:
    if not isinstance(array, np.ndarray):
        return array
    return array[cell] if array.ndim == 2 else array[cell[1]]


def _regions(arrays: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(region(a) for a in arrays if isinstance(a, np.ndarray) and a.size)


def product_address() -> int:
    """The address of the product of matrices for this processor."""
    lanes = tiles.lanes()
    if lanes is None:
        raise NotLowered("products on this processor")
    return int(tiles.product(lanes).address)
