"""How an operation is lowered: to a loop for each part, or to a call of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from xpnet.accel.cpu.blocks import Each, block
from xpnet.accel.cpu.layout import (
    PARTS,
    Layout,
    natural,
)
from xpnet.accel.cpu.operands import (
    address,
    key,
    regions,
    share,
)
from xpnet.accel.cpu.phases import Work
from xpnet.accel.cpu.regions import EVERYTHING
from xpnet.accel.cpu.split_batch import SplitBatch
from xpnet.accel.program import PRODUCTS, Op
from xpnet.backend import Array

Parts: TypeAlias = list[list[Work]]


class NotLowered(Exception):
    """An operation for which there is no loop, or a step that is faster without loops."""


CALL = "call"
"""The loop that calls Python; its argument is the place of the operations in `Lowering.calls`."""


def of_parts(works: Iterable[Work | list[Work] | None]) -> Parts:
    """An operation whose parts have one piece of work, several, or none."""
    return [w if isinstance(w, list) else [] if w is None else [w] for w in works]


def single(work: Work, part: int = PARTS - 1) -> Parts:
    """An operation that one part does alone."""
    return [[work] if number == part else [] for number in range(PARTS)]


class Base:
    """The operations of a step, lowered one after the other; subclasses know the operations.

    `tables`: `(steps, n)`; in step `s` row `s` of each takes the place of its row 0. `states`: the
    optimizer's flat arrays, flushed after step `s` by the limit in row `s` of `limits`.
    """

    def __init__(
        self,
        tables: Sequence[Array] = (),
        states: Sequence[Array] = (),
        limits: Array | None = None,
    ) -> None:
        self.each = {address(table): table for table in tables}
        self.states, self.limits = {address(state): state for state in states}, limits
        self.layouts: dict[tuple[int, tuple[int, ...]], Layout] = {}
        self.shapes: dict[tuple[int, ...], Layout] = {}
        """How the last matrix of a shape was cut in the forward pass."""
        self.read_by_rows: set[int] = set()
        """The `id` of products whose result no product reads in groups."""
        self.splits: dict[int, SplitBatch | None] = {}
        """By address, batches that may be split, and what takes their place once gathered."""
        self.written: dict[int, tuple[Array, Layout]] = {}
        self.kept: list[Array] = []
        self.partials: dict[tuple[int, tuple[int, ...]], Array] = {}
        self.late: list[tuple[Array, Parts]] = []
        self.operations: list[Parts] = []
        self.calls: list[list[Op]] = []
        self.cuts: dict[int, list[tuple[int, Any]]] = {}
        """The pieces of the flat arrays that updates change, each with its part."""

    def add(self, op: Op) -> None:
        """Lower `op`. Raises `NotLowered` for a product of matrices."""
        name = ("_kernel_" if op.is_kernel else "_op_") + op.name
        lower: Callable[[Op], None] = getattr(self, name, self._call)
        self._needs(op)
        if any(share(op.output, table) for table in self.each.values()):
            raise NotLowered("what differs between steps is written within one")
        try:
            lower(op)
        except NotLowered:
            if op.name in PRODUCTS and not op.is_kernel:
                raise
            self._call(op)

    def _call(self, op: Op) -> None:
        """Call Python for `op`, between two phases; at once for operations that follow it."""
        last = self.operations[-1][0] if self.operations else []
        if last and last[0].loop == CALL and not self.late:
            self.calls[-1].append(op)
            return
        self.operations += [parts for _, parts in self.late]
        self.late.clear()
        place = np.array([len(self.calls)], np.int64)
        self.kept.append(place)
        self.calls.append([op])
        everything = (EVERYTHING,)
        self.operations.append(single(Work(CALL, place, everything, everything), 0))

    def end(self) -> list[Parts]:
        """All operations; those that could wait come last."""
        self.operations += [parts for _, parts in self.late]
        self.late.clear()
        self._flush()
        return self.operations

    def _flush(self) -> None:
        """Lower `flush_subnormals` of `states`."""

    def _needs(self, op: Op) -> None:
        """Append the waiting operations whose result shares memory with an array of `op`."""
        used = [a for a in (*op.inputs, op.output) if isinstance(a, np.ndarray)]
        waiting = self.late
        self.late = []
        for array, parts in waiting:
            if any(share(array, other) for other in used):
                self.operations.append(parts)
            else:
                self.late.append((array, parts))

    def _layout(self, matrix: Array) -> Layout:
        """The cells of a matrix: as it was written, else the natural ones."""
        return self.layouts.setdefault(key(matrix), natural(matrix))

    def _rows_of(self, vector: Any) -> Array:
        """The table of which `vector` is in row 0; of another vector, one that repeats it."""
        is_vector = isinstance(vector, np.ndarray) and vector.ndim == 1
        if not (is_vector and vector.flags.c_contiguous):
            raise NotLowered("not a vector whose numbers lie side by side")
        for start, table in self.each.items():
            first = (address(vector) - start) // vector.itemsize
            if 0 <= first <= table.shape[1] - len(vector) and table.dtype == vector.dtype:
                return table[:, first : first + len(vector)]
        return np.lib.stride_tricks.as_strided(vector, (1, *vector.shape), (0, *vector.strides))

    def _work(
        self,
        loop: str,
        shape: Any,
        arguments: Sequence[Any],
        writes: Iterable[Array],
        reads: Iterable[Array] = (),
    ) -> Work | None:
        """One call of `loop`; None where there is nothing to do.

        It reads all arrays among its arguments; no operation writes to a table. `reads`: what it
        finds beside them.
        """
        if 0 in shape:
            return None
        found = block(shape, *arguments)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        if any(share(a, table) for a in arrays for table in self.each.values()):
            raise NotLowered(f"{loop} of what differs between steps, which is no `Each`")
        arrays += [a.table[0] for a in arguments if isinstance(a, Each) and not a.table.strides[0]]
        self.kept += [found, *arrays]
        return Work(loop, found, regions([*arrays, *reads]), regions(writes))
