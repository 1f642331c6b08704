"""Lowers updates of values by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xpnet.accel.cpu.blocks import Each
from xpnet.accel.cpu.layout import (
    ALL,
    LINE,
    PARTS,
    Cell,
    ranges_of,
)
from xpnet.accel.cpu.lower_base import Base, NotLowered, Parts
from xpnet.accel.cpu.operands import (
    address,
    is_flat,
)
from xpnet.accel.program import Op
from xpnet.backend import Array


class Updates(Base):
    """Loops over flat arrays, cut as the gradients were written."""

    def _flush(self) -> None:
        for start, state in self.states.items():
            assert self.limits is not None
            if not is_flat(state):
                raise NotLowered("a state that is not flat")
            parts: Parts = [[] for _ in range(PARTS)]
            for part, piece in self.cuts.get(start) or self._pieces(state):
                cell = piece(state)
                work = self._work("flush_subnormals", cell.shape, [cell, Each(self.limits)], [cell])
                if work is not None:
                    parts[part].append(work)
            self.operations.append(parts)

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
        """A loop over flat arrays, cut as the gradients are: `cut_as`, or `arrays[1]`.

        An operation for each gradient: its update may follow in the phase that has computed it.
        """
        each = [] if scalars is None else [Each(self._rows_of(scalars))]
        if not all(is_flat(array) and array.shape == arrays[0].shape for array in arrays):
            raise NotLowered(f"{loop} of arrays that are not flat")
        pieces = self._pieces(arrays[1] if cut_as is None else cut_as)
        self.cuts |= {address(array): pieces for array in changed}
        operations: dict[int, Parts] = {}
        for part, piece in pieces:
            given = [piece(array) for array in arrays]
            out = [piece(array) for array in changed]
            work = self._work(loop, given[0].shape, [*given, *each, *numbers], out)
            if work is not None:
                parts = operations.setdefault(piece.first, [[] for _ in range(PARTS)])
                parts[part].append(work)
        self.operations += operations.values()

    def _pieces(self, flat: Array) -> list[tuple[int, Piece]]:
        """Matrices that make up `flat`, each with the part that wrote it.

        What no part wrote is cut evenly.
        """
        start, end = address(flat), address(flat) + flat.nbytes
        found: list[tuple[int, Piece]] = []
        covered = []
        for at_array, (array, layout) in self.written.items():
            if start <= at_array < end:
                first = (at_array - start) // flat.itemsize
                covered.append((first, first + array.size))
                found += [(n, Piece(first, array.shape, cell)) for n, cell in enumerate(layout)]
        at = 0
        for first, last in [*sorted(covered), (flat.size, flat.size)]:
            if not at <= first <= last <= flat.size:
                raise NotLowered("gradients that are not made of whole matrices")
            for part, columns in enumerate(ranges_of(first - at, PARTS, LINE)):
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
