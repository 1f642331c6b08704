"""A recorded step that runs as compiled loops, for several steps in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence

from xpnet.accel import small_gemm
from xpnet.accel.cpu import runner, table
from xpnet.accel.cpu.layout import PARTS
from xpnet.accel.cpu.lowering import Lowering, product_address
from xpnet.accel.cpu.phases import Work, phases
from xpnet.accel.program import Program
from xpnet.backend import Array


class CompiledSteps:
    """Runs a recorded step `count` times: `steps(count)`, outside the interpreter.

    `tables`: `(most, n)`; step `s` reads row `s` of each where the recorded one reads row 0.
    `most`: how many steps one call may run. Raises `NotLowered` where an operation has no loop.
    """

    def __init__(self, program: Program, tables: Sequence[Array]) -> None:
        lowering = Lowering(tables)
        for op in program:
            lowering.add(op)
        self.most = min(map(len, tables), default=1)
        # They hold the arrays, of which the loops know only the addresses.
        self._arrays = program, lowering
        self._program = runner.Program(
            [
                [list(map(_record, part)) for part in phase.parts if part]
                for phase in phases(lowering.end())
            ]
        )

    def __call__(self, count: int = 1) -> None:
        """Run `count` steps."""
        self._program.run(0, count, threads())

    @property
    def completed(self) -> int:
        """The number of steps that the last call completed, if an exception ended it."""
        return self._program.next_step


def threads() -> int:
    """As many as NumPy's BLAS uses: its limit, such as `--threads`, is that of the loops."""
    count = small_gemm.blas_threads() or len(os.sched_getaffinity(0))
    return max(1, min(count, PARTS))


def _record(work: Work) -> runner.Record:
    address = product_address() if work.loop == "product" else table.loop(work.loop).address
    return runner.Record(address, work.arguments)
