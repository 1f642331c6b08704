"""Lowers the operations of a recorded step to compiled loops on parts of arrays.

Each operation becomes one call of a loop for each of `PARTS` parts, with the memory that it reads
and writes; `phases` then puts operations together whose parts do not meet. An operation that has no
loop, or arrays that no loop takes, becomes one call of Python. That holds for all but products of
matrices: those of BLAS would depend on the number of threads, so they raise `NotLowered`.
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
from xpnet.accel.cpu.regions import EVERYTHING, region
from xpnet.accel.program import PRODUCTS, Op
from xpnet.backend import Array

Parts: TypeAlias = list[list[Work]]


class NotLowered(Exception):
    """An operation for which there is no loop."""


WIDTH = 64
"""Sums that each part of a product of two vectors computes."""

CALL = "call"
"""The loop that calls Python; its argument is a number of `Lowering.calls`."""


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
        self.layouts: dict[tuple[int, tuple[int, ...]], Layout] = {}
        self.written: dict[int, tuple[Array, Layout]] = {}
        self.kept: list[Array] = []
        self.late: list[tuple[Array, Parts]] = []
        self.operations: list[Parts] = []
        self.calls: list[Op] = []

    def add(self, op: Op) -> None:
        """Lower `op`. Raises `NotLowered` for a product of matrices."""
        name = ("_kernel_" if op.is_kernel else "_op_") + op.name
        lower: Callable[[Op], None] = getattr(self, name, self._call)
        self._needs(op)
        if any(_share(op.output, table) for table in self.each.values()):
            raise NotLowered("what differs between steps is written within one")
        try:
            lower(op)
        except NotLowered:
            if op.name in PRODUCTS and not op.is_kernel:
                raise
            self._call(op)

    def _call(self, op: Op) -> None:
        """Call Python for `op`, between two phases."""
        self.operations += [parts for _, parts in self.late]
        self.late.clear()
        number = np.array([len(self.calls)], np.int64)
        self.kept.append(number)
        self.calls.append(op)
        everything = (EVERYTHING,)
        self.operations.append(single(Work(CALL, number, everything, everything), 0))

    def end(self) -> list[Parts]:
        """All operations; those that could wait come last."""
        self.operations += [parts for _, parts in self.late]
        self.late.clear()
        return self.operations

    def _needs(self, op: Op) -> None:
        """Add the operations that wait and write an array of `op`."""
        used = [_at(a) for a in (*op.inputs, op.output) if isinstance(a, np.ndarray)]
        self.operations += [parts for array, parts in self.late if _at(array) in used]
        self.late = [late for late in self.late if _at(late[0]) not in used]

    def _layout(self, matrix: Array) -> Layout:
        """The cells of a matrix: as it was written, else the natural ones."""
        return self.layouts.setdefault(_key(matrix), natural(matrix))

    def _rows_of(self, vector: Any) -> Array:
        """The table of which `vector` is in row 0; of another vector, one that repeats it."""
        is_vector = isinstance(vector, np.ndarray) and vector.ndim == 1
        if not (is_vector and vector.flags.c_contiguous):
            raise NotLowered("not a vector whose numbers lie side by side")
        for start, table in self.each.items():
            first = (_at(vector) - start) // vector.itemsize
            if 0 <= first <= table.shape[1] - len(vector) and table.dtype == vector.dtype:
                return table[:, first : first + len(vector)]
        return np.lib.stride_tricks.as_strided(vector, (1, *vector.shape), (0, *vector.strides))

    # Loops over the elements of matrices of one shape

    def _elements(
        self,
        loop: str,
        inputs: Sequence[Any],
        outputs: Sequence[Array],
        arguments: Sequence[Any] | None = None,
    ) -> None:
        """`loop` of matrices of one shape and of vectors, a number for each column; or vectors."""
        if any(_share(a, out) and not _are_one(a, out) for a in inputs for out in outputs):
            raise NotLowered(f"{loop} of arrays that overlap")
        matrices = [a for a in (*inputs, *outputs) if _is_matrix(a)]
        layout = self._layout(matrices[0]) if matrices else by_columns(outputs[0].size, LINE)
        given = arguments if arguments is not None else [*inputs, *outputs]
        works = []
        for cell in layout:
            ins, outs = ([_part(a, cell) for a in arrays] for arrays in (inputs, outputs))
            shape = outs[0].shape if outs[0].ndim == 2 else (1, outs[0].size)
            works.append(self._work(loop, shape, [_part(a, cell) for a in given], ins, outs))
        for output in outputs if matrices else ():
            self.layouts[_key(output)] = layout
        self.operations.append(of_parts(works))

    def _work(
        self,
        loop: str,
        shape: Any,
        arguments: Sequence[Any],
        reads: Iterable[Any],
        writes: Iterable[Array],
    ) -> Work | None:
        """One call of `loop`; None where there is nothing to do.

        It also reads its arguments, but for the rows of tables, which nothing writes.
        """
        if 0 in shape:
            return None
        found = block(shape, *arguments)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        arrays += [a.table[0] for a in arguments if isinstance(a, Each) and not a.table.strides[0]]
        self.kept += [found, *arrays]
        return Work(loop, found, _regions([*arrays, *reads]), _regions(writes))

    def _op_add(self, op: Op) -> None:
        self._arithmetic(op)

    _op_subtract = _op_divide = _op_maximum = _op_minimum = _op_add

    def _op_multiply(self, op: Op) -> None:
        a, b = op.inputs
        if getattr(b, "shape", None) == (1,) and _is_flat(a) and _is_flat(op.output):
            self._scale(a, b, op)
        else:
            self._arithmetic(op)

    def _arithmetic(self, op: Op) -> None:
        """Of two matrices or vectors of the shape of the result, vectors and numbers."""
        out: Any = op.output
        if op.options or not (_is_matrix(out) or _is_flat(out)):
            raise NotLowered(str(op))
        inputs = [self._operand(value, out) for value in op.inputs]
        if not any(value.shape == out.shape for value in inputs):
            raise NotLowered(str(op))
        self._elements(op.name, inputs, [out])

    def _operand(self, value: Any, out: Array) -> Array:
        """`value` as a matrix or vector of which a loop finds a number for each of `out`."""
        if type(value) in (int, float):
            return np.full(out.shape[-1:], value, out.dtype)
        if _is_real(value) and value.shape in (out.shape, out.shape[-1:]):
            return np.asarray(value)
        raise NotLowered("an operand of another shape or dtype")

    def _scale(self, a: Array, b: Array, op: Op) -> None:
        """`out = a b` for a vector `a` and a number `b` of each step."""
        out = op.output
        if op.options or out is None or a.shape != out.shape or b.dtype != a.dtype:
            raise NotLowered(str(op))
        if _share(b, out) or (_share(a, out) and not _are_one(a, out)):
            raise NotLowered(str(op))
        each = Each(self._rows_of(b))
        works = [
            self._work("scale", (1, to.size), [given, each, to], [given], [to])
            for given, to in ((a[c], out[c]) for c in cut(a.size, PARTS, LINE))
        ]
        self.operations.append(of_parts(works))

    def _op_exp(self, op: Op) -> None:
        (x,) = op.inputs
        out: Any = op.output
        is_like = _is_real(x) and _is_real(out) and x.shape == out.shape
        if op.options or not is_like or out.ndim not in (1, 2):
            raise NotLowered(str(op))
        self._elements(op.name, [x], [out])

    _op_tanh = _op_sqrt = _op_absolute = _op_negative = _op_exp

    def _kernel_relu(self, op: Op) -> None:
        self._elements_of_kernel(op, 1)

    def _kernel_relu_backward(self, op: Op) -> None:
        self._elements_of_kernel(op, 2)

    def _kernel_tanh_backward(self, op: Op) -> None:
        self._elements_of_kernel(op, 2)

    def _kernel_sigmoid_backward(self, op: Op) -> None:
        self._elements_of_kernel(op, 2)

    def _elements_of_kernel(self, op: Op, inputs: int) -> None:
        arrays = op.inputs
        if not all(_is_matrix(a) and _is_like(a, arrays[-1]) for a in arrays):
            raise NotLowered(str(op))
        self._elements(op.name, arrays[:inputs], arrays[inputs:])

    def _kernel_add_relu(self, op: Op) -> None:
        y, bias, r = op.inputs
        if not (_is_matrix(y) and _is_like(r, y) and _is_vector(bias, y)):
            raise NotLowered(str(op))
        self._elements("add_relu", [y, bias], [y, r], [y, bias, r])

    def _kernel_dropout(self, op: Op) -> None:
        x, counter, units, threshold, scale, mask, y = op.inputs
        are_known = counter.dtype == np.uint64 and units.dtype == np.uint32
        if not (are_known and _is_like(x, y) and _is_like(mask, y)):
            raise NotLowered(str(op))
        layout = self._layout(x)
        works = []
        for cell in layout:
            rows, columns = cell
            numbers = [int(threshold), float(scale)]
            arrays = [x[cell], mask[cell], y[cell]]
            given = [arrays[0], counter, units[columns], *numbers, *arrays[1:]]
            first = rows.indices(len(x))[0]
            read = [arrays[0], counter]
            works.append(self._work("dropout", arrays[0].shape, [*given, first], read, arrays[1:]))
        self.operations.append(of_parts(works))
        self.layouts[_key(mask)] = self.layouts[_key(y)] = layout
        after = self._work("advance", (1, 1), [counter, len(x)], [counter], [counter])
        assert after is not None
        self.late.append((counter, single(after)))

    # Batches

    def _op_take(self, op: Op) -> None:
        source, indices, *axis = op.inputs
        table = self._rows_of(indices)
        out: Any = op.output
        is_listed = table.strides[0] != 0
        is_of_rows = not axis and op.options.get("axis") == 0
        if not (is_listed and is_of_rows and out.flags.c_contiguous):
            # Of indices that are not those of the step nobody knows that they are in range.
            raise NotLowered(str(op))
        if out.ndim == source.ndim == 1 and out.dtype == source.dtype == np.int64:
            works = [
                self._work(
                    "gather_integers",
                    (out[rows].size, 1),
                    [source, Each(table[:, rows]), out[rows]],
                    [],
                    [out[rows]],
                )
                for rows in cut(out.size, PARTS)
            ]
            self.operations.append(of_parts(works))
        elif _is_matrix(out) and _is_matrix(source):
            self._gather("gather", source, table, out)
        else:
            raise NotLowered(str(op))

    def _kernel_gather_scaled(self, op: Op) -> None:
        source, indices, scale, shift, out = op.inputs
        table = self._rows_of(indices)
        if table.strides[0] == 0 or source.dtype != np.uint8 or not _is_matrix(out):
            raise NotLowered(str(op))
        # A shift of -0 changes nothing, and the formula leaves a shift of 0 out.
        self._gather("gather_scaled", source, table, out, float(scale), float(shift) or -0.0)

    def _gather(self, loop: str, source: Array, table: Array, out: Array, *numbers: float) -> None:
        works = []
        for rows, columns in self._layout(out):
            to, each = out[rows, columns], Each(table[:, rows])
            given: list[Any] = [source[:, columns], each, *numbers, to]
            if not numbers:
                given = [source[:, columns], each, to]
            works.append(self._work(loop, to.shape, given, [], [to]))
        self.operations.append(of_parts(works))

    # Products of matrices

    def _op_dot(self, op: Op) -> None:
        a, b = op.inputs
        out: Any = op.output
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            raise NotLowered(str(op))
        if _share(a, out) or _share(b, out):
            raise NotLowered(str(op))
        if a.ndim == b.ndim == 1:
            self._vectors(a, b, op)
        elif a.ndim == 1 and _is_matrix(b) and _is_flat(out) and _are_ones(a):
            self._column_sums(b, out)
        elif all(_is_dense(x) for x in (a, b, out)):
            self._matrices(a, b, out)
        else:
            raise NotLowered(str(op))

    def _op_matmul(self, op: Op) -> None:
        self._op_dot(op)

    def _matrices(self, a: Array, b: Array, out: Array) -> None:
        """`out = a b`, cut so that each part reads little of `b`, which it copies."""
        rows, columns = out.shape
        is_gradient = a.strides[0] == a.itemsize and a.shape[0] > 1
        is_of_rows = b.strides[0] == b.itemsize and b.shape[1] > 1
        if is_gradient:
            # Rows of xᵀ dy are columns of x: as those are cut.
            is_cut = is_wide(rows) and is_wide(columns)
            unit = LINE if is_wide(rows) else 1
            self._product_by(grid(rows, columns) if is_cut else by_rows(rows, unit), a, b, out)
        elif is_of_rows:
            is_cut = columns >= PARTS * LINE
            self._product_by(by_columns(columns, LINE) if is_cut else natural(out), a, b, out)
        elif is_wide(a.shape[1]) and b.size >= 16_384:
            self._product_in_groups(a, b, out)
        else:
            self._product_by(by_rows(rows), a, b, out)

    def _product_by(self, layout: Layout, a: Array, b: Array, out: Array) -> None:
        """Each part computes its own cell of `out`."""
        works = [self._product(a[r], b[:, c], out[r, c]) for r, c in layout]
        self.operations.append(of_parts(works))
        self.layouts[_key(out)] = layout
        if out.flags.c_contiguous:
            self.written[_at(out)] = out, layout

    def _product_in_groups(self, a: Array, b: Array, out: Array) -> None:
        """`a b` as a sum over ranges of the columns of `a`, each computed by some of the parts."""
        rows, columns = out.shape
        partial = np.zeros((GROUPS, rows, columns), out.dtype)
        self.kept.append(partial)
        ranges = cut(columns, PARTS // GROUPS, LINE)
        cells = [(ALL, c) for c in ranges]
        if not is_wide(columns):
            cells = [(r, ALL) for r in cut(rows, PARTS // GROUPS)]
        works = [
            self._product(a[r, k], b[k, c], part[r, c])
            for k, part in zip(cut(a.shape[1], GROUPS, LINE), partial, strict=True)
            for r, c in cells
        ]
        self.operations.append(of_parts(works))
        summed = []
        cells = natural(out)
        for cell in cells:
            pieces, to = [part[cell] for part in partial], out[cell]
            given = [pieces[0], to, partial.strides[0], GROUPS]
            summed.append(self._work("sum_parts", to.shape, given, pieces, [to]))
        self.operations.append(of_parts(summed))
        self.layouts[_key(out)] = cells

    def _vectors(self, a: Array, b: Array, op: Op) -> None:
        """`out = a · b` of two vectors: `WIDTH` sums of each part, then the sum of all."""
        out = op.output
        if out is None or not (_is_flat(a) and _is_flat(b) and out.dtype == a.dtype):
            raise NotLowered(str(op))
        sums = np.zeros((PARTS, WIDTH), out.dtype)
        works = [
            self._work("dot", (1, a[c].size), [a[c], b[c], to, WIDTH], [a[c], b[c]], [to])
            for c, to in zip(cut(a.size, PARTS, LINE), sums, strict=True)
        ]
        self.operations.append(of_parts(works))
        total = self._work("total", sums.shape, [sums, out], [sums], [out])
        assert total is not None
        self.operations.append(single(total))

    def _product(self, a: Array, b: Array, out: Array) -> Work | None:
        if 0 in out.shape or a.shape[1] == 0:
            return None
        found = product_block(a, b, out)
        self.kept += [found, a, b, out]
        return Work("product", found, _regions([a, b]), _regions([out]))

    def _column_sums(self, a: Array, out: Array) -> None:
        works = []
        ranges = cut(a.shape[1], PARTS, LINE)
        for columns in ranges:
            given = [a[:, columns], out[columns]]
            works.append(self._work("column_sums", given[0].shape, given, given[:1], given[1:]))
        self.operations.append(of_parts(works))
        self.written[_at(out)] = out.reshape(-1, 1), [(c, ALL) for c in ranges]

    # The loss and the metrics

    def _kernel_shift_logits(self, op: Op) -> None:
        logits, shifted = op.inputs
        are_known = _is_matrix(logits) and _is_matrix(shifted)
        if not are_known or shifted.shape != logits.shape[::-1]:
            raise NotLowered(str(op))
        works = [
            self._work(
                "shift_logits",
                logits[r].shape,
                [logits[r], shifted[:, r]],
                [logits[r]],
                [shifted[:, r]],
            )
            for r, _ in by_rows(len(logits))
        ]
        self.operations.append(of_parts(works))
        self.layouts[_key(shifted)] = by_columns(len(logits))

    def _kernel_softmax_cross_entropy(self, op: Op) -> None:
        shifted, labels, smoothing, p, value = op.inputs
        if not (_is_matrix(p) and _is_like(shifted, p) and _are_labels(labels, p.shape[1])):
            raise NotLowered(str(op))
        losses = np.zeros(p.shape[1])
        self.kept.append(losses)
        works = []
        for _, c in by_columns(p.shape[1]):
            arrays = [shifted[:, c], labels[c], p[:, c], losses[c]]
            given = [arrays[0], labels[c], float(smoothing), p[:, c], losses[c]]
            # Floats of the block have the dtype of p: the losses are float64.
            works.append(
                self._work("softmax_cross_entropy", p[:, c].shape[::-1], given, arrays, arrays[2:])
            )
        self.operations.append(of_parts(works))
        mean = self._work("mean_loss", (len(losses), 1), [losses, value], [losses], [value])
        assert mean is not None
        self.late.append((value, single(mean)))

    def _kernel_softmax_cross_entropy_backward(self, op: Op) -> None:
        p, labels, smoothing, scale, out = op.inputs
        are_known = _is_matrix(p) and _is_matrix(out) and p.shape == out.shape[::-1]
        if not (are_known and _are_labels(labels, len(out))):
            raise NotLowered(str(op))
        works = []
        for r, _ in by_rows(len(out)):
            given = [p[:, r], labels[r], float(smoothing), float(scale), out[r]]
            arrays = [p[:, r], labels[r]]
            works.append(
                self._work("softmax_cross_entropy_backward", out[r].shape, given, arrays, [out[r]])
            )
        self.operations.append(of_parts(works))
        self.layouts[_key(out)] = by_rows(len(out))

    def _kernel_add_loss(self, op: Op) -> None:
        value, samples, total = op.inputs
        work = self._work("add_loss", (1, 1), [value, int(samples), total], [value], [total])
        assert work is not None
        self.operations.append(single(work))

    def _kernel_count_hits(self, op: Op) -> None:
        logits, labels, hits = op.inputs
        if not (_is_matrix(logits) and _are_labels(labels, len(logits)) and hits.dtype == np.int64):
            raise NotLowered(str(op))
        works = [
            # Additions to `hits` are atomic: in any order.
            self._work(
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

    def _kernel_descend(self, op: Op) -> None:
        values, gradients, scalars = op.inputs
        self._update("descend", [values, gradients], [values], scalars)

    def _kernel_descend_with_momentum(self, op: Op) -> None:
        values, gradients, velocity, scalars, momentum, nesterov = op.inputs
        numbers = float(momentum), int(nesterov)
        arrays = [values, gradients, velocity]
        self._update("descend_with_momentum", arrays, [values, velocity], scalars, *numbers)

    def _kernel_rmsprop_direction(self, op: Op) -> None:
        gradients, square, direction, *factors = op.inputs
        arrays, numbers = [gradients, square, direction], map(float, factors)
        changed = [square, direction]
        self._update("rmsprop_direction", arrays, changed, None, *numbers, cut_as=gradients)

    def _kernel_adam(self, op: Op) -> None:
        values, gradients, first, second, scalars, beta1, beta2 = op.inputs
        numbers = float(beta1), float(beta2)
        arrays = [values, gradients, first, second]
        self._update("adam", arrays, [values, first, second], scalars, *numbers)

    def _update(
        self,
        loop: str,
        arrays: Sequence[Array],
        changed: Sequence[Array],
        scalars: Array | None,
        *numbers: float,
        cut_as: Array | None = None,
    ) -> None:
        """A loop over flat arrays, cut as the gradients are: `cut_as`, or `arrays[1]`."""
        each = [] if scalars is None else [Each(self._rows_of(scalars))]
        if not all(_is_flat(array) and array.shape == arrays[0].shape for array in arrays):
            raise NotLowered(f"{loop} of arrays that are not flat")
        parts: Parts = [[] for _ in range(PARTS)]
        for part, piece in self._pieces(arrays[1] if cut_as is None else cut_as):
            given, out = ([piece(array) for array in each] for each in (arrays, changed))
            work = self._work(loop, given[0].shape, [*given, *each, *numbers], given, out)
            if work is not None:
                parts[part].append(work)
        self.operations.append(parts)

    def _pieces(self, flat: Array) -> list[tuple[int, Piece]]:
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
            if not at <= first <= last <= flat.size:
                raise NotLowered("gradients that are not made of whole matrices")
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
        """The cell of the matrix in `flat`."""
        size = self.shape[0] * self.shape[1]
        return flat[self.first : self.first + size].reshape(self.shape)[self.cell]


def _at(array: Array) -> int:
    return int(array.ctypes.data)


def _key(matrix: Array) -> tuple[int, tuple[int, ...]]:
    return _at(matrix), matrix.shape


def _is_real(array: Any) -> bool:
    """Whether the loops take it: float32, with numbers that lie side by side."""
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous


def _is_dense(array: Any) -> bool:
    """A matrix of float32 whose rows or columns have their numbers side by side."""
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != np.float32:
        return False
    return bool(array.itemsize in array.strides and min(array.strides) > 0)


def _is_matrix(array: Any) -> bool:
    return _is_real(array) and array.ndim == 2


def _are_labels(array: Any, count: int) -> bool:
    is_listed = array.shape == (count,) and array.dtype == np.int64
    return bool(is_listed and array.flags.c_contiguous)


def _are_ones(vector: Array) -> bool:
    """Whether it is `Workspace.ones`, which nothing writes to."""
    return not vector.flags.writeable and bool((vector == 1).all())


def _is_flat(array: Any) -> bool:
    return _is_real(array) and array.ndim == 1


def _is_like(a: Any, out: Array) -> bool:
    return _is_matrix(a) and a.shape == out.shape and a.dtype == out.dtype


def _is_vector(a: Any, out: Array) -> bool:
    """A number for each column, such as a bias."""
    is_one = isinstance(a, np.ndarray) and a.shape == out.shape[1:] and a.flags.c_contiguous
    return is_one and a.dtype == out.dtype


def _share(a: Any, b: Any) -> bool:
    """Whether two arrays may have memory in common."""
    are_arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return are_arrays and np.may_share_memory(a, b)


def _are_one(a: Array, b: Array) -> bool:
    """Whether they are the same array, so that each element shares memory with itself alone."""
    return _at(a) == _at(b) and a.shape == b.shape and a.strides == b.strides


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
