"""A recorded step that runs as compiled loops, for several steps in one call."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Generator, Sequence
from contextvars import copy_context
from typing import Any

import numpy as np

from xpnet.accel import small_gemm
from xpnet.accel.cpu import runner, table
from xpnet.accel.cpu.in_place import in_place
from xpnet.accel.cpu.layout import PARTS
from xpnet.accel.cpu.lower_base import CALL, NotLowered
from xpnet.accel.cpu.lowering import Lowering, product
from xpnet.accel.cpu.phases import Work, phases
from xpnet.accel.program import Op, Program
from xpnet.backend import Array

MOST_CALLS = 6
"""How often a step may call Python; with more, it takes longer than without compiled loops.

Each time takes about 10 µs more than the operations themselves, and the other threads wait.
"""

MOST_OPERATIONS = 1_500
"""Of a step; to lower that many takes five seconds. A full batch of about 80,000 rows has them, in
a network of two `Linear` layers."""

LEAST_STACK = 2**20
"""Bytes of a thread's stack; a product of matrices has copies of up to 525 kB there."""

_LOOP = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64))
"""A loop that does not look at the number of the step, its second argument."""


class CompiledSteps:
    """Runs a recorded step `count` times: `steps(count)`.

    `tables`: `(most, n)`; step `s` reads row `s` of each where the recorded one reads row 0.
    `optimizer`: its state is flushed after the same updates as by `Optimizer.count_step`.
    `own_layers`: whether all layers are xpnet's own, so that some operations may work in place: see
    `in_place`.
    `most`: how many steps one call may run. An operation without a loop is called in Python, by
    whichever thread comes to it; without such operations the interpreter is not needed until the
    end. Raises `NotLowered` for a step with products, or many other operations, without a loop, for
    one of very many operations, and where new threads have a small stack.
    """

    def __init__(
        self,
        program: Program,
        tables: Sequence[Array],
        optimizer: Any = None,
        *,
        own_layers: bool = False,
    ) -> None:
        if os.name != "posix":
            raise NotLowered("threads wait by functions of Linux and macOS")
        if 0 < (size := _stack_size()) < LEAST_STACK:
            raise NotLowered(f"threads with a stack of {size:,} bytes")
        self.most = min(map(len, tables), default=1)
        self._tables = tables
        # The operations hold the arrays, of which the loops know only the addresses. This keeps
        # those that `in_place` leaves out, too: a `signature` is valid while they exist.
        self._recorded = program
        self._optimizer = optimizer
        states = []
        if optimizer is not None and optimizer.state:
            states = [optimizer.state[name] for name in optimizer.state_names]
        self._limits = np.zeros((self.most, 1), states[0].dtype if states else np.float32)
        self._lowering = lowering = Lowering(tables, states, self._limits)
        if len(program) > MOST_OPERATIONS:
            raise NotLowered(f"{len(program):,} operations")
        if own_layers:
            program = in_place(program)
        lowering.look_ahead(program)
        for op in program:
            lowering.add(op)
        if len(lowering.calls) > MOST_CALLS:
            raise NotLowered(f"operations without a loop at {len(lowering.calls)} places")
        calls = self._python_calls()
        next(calls)
        self._from_c = _LOOP(calls.send)
        found = phases(lowering.end())
        parts = [[list(map(self._record, part)) for part in p.parts if part] for p in found]
        self._program = runner.Program(parts)
        self._error: BaseException | None = None

    def reset(self) -> None:
        """Forget the last call: `completed` is 0."""
        self._error = None
        self._program.reset()

    def __call__(self, count: int) -> None:
        """Run `count` steps. An error is given a note with the operation that raised it."""
        self.reset()
        self._context = copy_context()
        if (optimizer := self._optimizer) is not None:
            updates = range(optimizer.steps + 1, optimizer.steps + 1 + count)
            tiny = np.finfo(self._limits.dtype).tiny
            self._limits[:count, 0] = [tiny * optimizer.flushes_after(u) for u in updates]
        self._program.run(0, count, threads())
        if self._error is not None:
            raise self._error

    @property
    def completed(self) -> int:
        """The number of steps that the last call has completed."""
        return self._program.next_step - (self._error is not None)

    def _record(self, work: Work) -> runner.Record:
        if work.loop == CALL:
            address = ctypes.cast(self._from_c, ctypes.c_void_p).value or 0
        else:
            found = product() if work.loop == "product" else table.loop(work.loop)
            address = found.address
        return runner.Record(address, work.arguments)

    def _python_calls(self) -> Generator[None, Any, None]:
        """Operations in Python, with the caller's context, each time that C sends their place.

        Nothing may be raised into C, where it is lost. So this is no function: Python handles a
        signal when it enters one, before any `try` in it, but a generator where it resumes.
        """
        while True:
            try:
                while True:
                    arguments = yield
                    if self._error is None:
                        # No other thread is ahead: these operations are a phase of their own.
                        step = self._program.next_step - 1
                        for rows in self._tables if step else ():
                            rows[0] = rows[step]
                        self._context.run(self._run, self._lowering.calls[arguments[0]])
            except GeneratorExit:
                return
            except BaseException as error:
                self._error = self._error or error
                self._program.stop()

    def _run(self, ops: list[Op]) -> None:
        for op in ops:
            try:
                op.call()
            except BaseException as error:
                error.add_note(f"in a recorded step, {op}")
                raise


def _stack_size() -> int:
    """Bytes of the stack of new threads; 0: the default of the system, some megabytes."""
    size = threading.stack_size()
    if size:
        threading.stack_size(size)  # asking has set it to the default
    return size


def threads() -> int:
    """As many as NumPy's BLAS uses: its limit, such as `--threads`, is that of the loops."""
    count = small_gemm.usual_threads() or os.cpu_count() or 1
    return max(1, min(count, PARTS))
