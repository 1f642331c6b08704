"""Lowers operations on elements: arithmetic, activations, dropout, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpnet.accel.cpu.blocks import Each
from xpnet.accel.cpu.layout import (
    LINE,
    PARTS,
    by_columns,
    by_samples,
    ranges_of,
)
from xpnet.accel.cpu.lower_base import Base, NotLowered, of_parts, single
from xpnet.accel.cpu.operands import (
    are_one,
    is_column,
    is_flat,
    is_like,
    is_matrix,
    is_real,
    is_vector,
    key,
    part_of,
    share,
)
from xpnet.accel.program import Op
from xpnet.backend import Array

_WITH_COLUMN = frozenset({"subtract", "multiply", "divide"})


class Elements(Base):
    """Loops over the elements of matrices of one shape, and of vectors."""

    def _elements(
        self,
        loop: str,
        inputs: Sequence[Any],
        outputs: Sequence[Array],
        arguments: Sequence[Any] | None = None,
    ) -> None:
        """`loop` of matrices of one shape and of vectors, a number for each column; or vectors.

        With a column, a number for each row, it is cut by samples.
        """
        if any(share(a, out) and not are_one(a, out) for a in inputs for out in outputs):
            raise NotLowered(f"{loop} of arrays that overlap")
        matrices = [a for a in (*inputs, *outputs) if is_matrix(a)]
        layout = self._layout(matrices[0]) if matrices else by_columns(outputs[0].size, LINE)
        if any(a.shape != outputs[0].shape for a in matrices):
            layout = by_samples(len(outputs[0]))
        given = arguments if arguments is not None else [*inputs, *outputs]
        works = []
        for cell in layout:
            outs = [part_of(a, cell) for a in outputs]
            shape = outs[0].shape if outs[0].ndim == 2 else (1, outs[0].size)
            works.append(self._work(loop, shape, [part_of(a, cell) for a in given], outs))
        for output in outputs if matrices else ():
            self.layouts[key(output)] = layout
        self.operations.append(of_parts(works))

    def _op_add(self, op: Op) -> None:
        self._arithmetic(op)

    _op_subtract = _op_divide = _op_maximum = _op_minimum = _op_add

    def _op_multiply(self, op: Op) -> None:
        a, b = op.inputs
        if getattr(b, "shape", None) == (1,) and is_flat(a) and is_flat(op.output):
            self._scale(a, b, op)
        else:
            self._arithmetic(op)

    def _arithmetic(self, op: Op) -> None:
        """Of two matrices or vectors of the shape of the result, vectors, columns and numbers."""
        *given, out = map(_at_least_vector, (*op.inputs, op.output))
        if op.options or not (is_matrix(out) or is_flat(out)):
            raise NotLowered(str(op))
        a, b = given
        if op.name in _WITH_COLUMN and is_like(a, out) and is_column(b, out):
            self._elements(f"{op.name}_column", [a, b], [out])
            return
        inputs = [self._operand(value, out) for value in given]
        if not any(value.shape == out.shape for value in inputs):
            raise NotLowered(str(op))
        self._elements(op.name, inputs, [out])

    def _operand(self, value: Any, out: Array) -> Array:
        """`value` as a matrix or vector of which a loop finds a number for each of `out`."""
        if type(value) in (int, float):
            return np.full(out.shape[-1:], value, out.dtype)
        if is_real(value) and value.shape in (out.shape, out.shape[-1:]):
            return np.asarray(value)
        raise NotLowered("an operand of another shape or dtype")

    def _scale(self, a: Array, b: Array, op: Op) -> None:
        """`out = a b` for a vector `a` and a number `b` of each step."""
        out = op.output
        if op.options or out is None or a.shape != out.shape or b.dtype != a.dtype:
            raise NotLowered(str(op))
        if share(b, out) or (share(a, out) and not are_one(a, out)):
            raise NotLowered(str(op))
        each = Each(self._rows_of(b))
        works = [
            self._work("scale", (1, to.size), [given, each, to], [to])
            for given, to in ((a[c], out[c]) for c in ranges_of(a.size, PARTS, LINE))
        ]
        self.operations.append(of_parts(works))

    def _op_exp(self, op: Op) -> None:
        x, out = map(_at_least_vector, (*op.inputs, op.output))
        is_like = is_real(x) and is_real(out) and x.shape == out.shape
        if op.options or not is_like or out.ndim not in (1, 2):
            raise NotLowered(str(op))
        self._elements(op.name, [x], [out])

    _op_tanh = _op_log1p = _op_sqrt = _op_absolute = _op_negative = _op_sign = _op_copyto = _op_exp

    def _kernel_relu(self, op: Op) -> None:
        self._elements_of_kernel(op, 1)

    def _kernel_tanh_backward(self, op: Op) -> None:
        self._elements_of_kernel(op, 2)

    _kernel_sigmoid_backward = _kernel_tanh_backward

    def _kernel_relu_backward(self, op: Op) -> None:
        dy, x, dx = op.inputs
        if is_like(x, dx) and are_one(dy, dx):
            self._elements("relu_backward_in_place", [x, dx], [dx], [x, dx])
        else:
            self._elements_of_kernel(op, 2)

    def _kernel_leaky_relu_backward(self, op: Op) -> None:
        dy, x, slope, dx = op.inputs
        if not (is_like(dy, dx) and is_like(x, dx)):
            raise NotLowered(str(op))
        self._elements(op.name, [dy, x], [dx], [dy, x, float(slope), dx])

    def _elements_of_kernel(self, op: Op, inputs: int) -> None:
        arrays = op.inputs
        if not all(is_like(a, arrays[-1]) for a in arrays):
            raise NotLowered(str(op))
        self._elements(op.name, arrays[:inputs], arrays[inputs:])

    def _kernel_add_relu(self, op: Op) -> None:
        y, bias, r = op.inputs
        if not (is_matrix(y) and is_like(r, y) and is_vector(bias, y)):
            raise NotLowered(str(op))
        if are_one(y, r):
            self._elements("add_relu_in_place", [bias, r], [r], [bias, r])
        else:
            self._elements("add_relu", [y, bias], [y, r], [y, bias, r])

    def _kernel_dropout(self, op: Op) -> None:
        x, counter, units, threshold, scale, mask, y = op.inputs
        are_known = counter.dtype == np.uint64 and units.dtype == np.uint32
        if not (are_known and is_like(x, y) and is_like(mask, y)):
            raise NotLowered(str(op))
        layout = self._layout(x)
        works = []
        for cell in layout:
            rows, columns = cell
            numbers = [int(threshold), float(scale)]
            arrays = [x[cell], mask[cell], y[cell]]
            given = [arrays[0], counter, units[columns], *numbers, *arrays[1:]]
            first = rows.indices(len(x))[0]
            works.append(self._work("dropout", arrays[0].shape, [*given, first], arrays[1:]))
        self.operations.append(of_parts(works))
        self.layouts[key(mask)] = self.layouts[key(y)] = layout
        self._advance(counter, len(x))

    def _kernel_gaussian_noise(self, op: Op) -> None:
        x, counter, units, factor, y = op.inputs
        are_known = counter.dtype == np.uint64 and units.dtype == np.uint32
        if not (are_known and is_like(x, y) and len(units) == (y.shape[1] + 1) // 2):
            raise NotLowered(str(op))
        layout, works = by_samples(len(x)), []
        for rows, _ in layout:
            given = [x[rows], counter, units, float(factor), y[rows]]
            first = rows.indices(len(x))[0]
            works.append(self._work("gaussian_noise", y[rows].shape, [*given, first], [y[rows]]))
        self.operations.append(of_parts(works))
        self.layouts[key(y)] = layout
        self._advance(counter, len(x))

    def _advance(self, counter: Array, samples: int) -> None:
        """Once all parts have read it."""
        after = self._work("advance", (1, 1), [counter, samples], [counter])
        assert after is not None
        self.late.append((counter, single(after)))


def _at_least_vector(value: Any) -> Any:
    """An array without dimensions as a vector of its only number; anything else as it is."""
    return value.reshape(1) if isinstance(value, np.ndarray) and value.ndim == 0 else value
