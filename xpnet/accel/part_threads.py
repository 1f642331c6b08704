"""Runs the parts of a batch at the same time, on several threads.

Some operations of a recorded step belong to a part of the batch (`part`): no part reads an array
that another one writes. Consecutive parts run at the same time, each on one thread, while NumPy and
the kernels compute outside the interpreter; all other operations run before or after them. The
results do not depend on the number of threads: a part has the same operations and arrays on each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from itertools import groupby

from xpnet.accel import small_gemm
from xpnet.accel.helper_threads import helpers
from xpnet.accel.program import Call, Program, run
from xpnet.backend.context import changed


def part(number: int) -> AbstractContextManager[None]:
    """In the block, operations that are recorded belong to this part of the batch."""
    return changed(part=number)


def run_parts(program: Program) -> Call:
    """One call that runs `program`, its parts on as many threads as NumPy's BLAS uses.

    An error is given a note with the operation that raised it.
    """
    if all(op.part is None for op in program):
        return run(program)
    calls: list[Call] = []
    for are_parts, ops in groupby(program, key=lambda op: op.part is not None):
        if are_parts:
            parts = [run(tuple(own)) for _, own in groupby(ops, key=lambda op: op.part)]
            calls.append(partial(run_together, parts))
        else:
            calls.append(run(tuple(ops)))

    def run_calls() -> None:
        for call in calls:
            call()

    return run_calls


def run_together(calls: Sequence[Call]) -> None:
    """Make the calls, each on one of several threads, the caller's one of them.

    When it ends, also by an error or Ctrl-C, none of them is running. Raises the first error.
    """
    work = _Work(calls)
    with (
        small_gemm.on_one_thread() as threads,
        helpers(min(threads, len(calls)) - 1) as others,
    ):
        try:
            for helper in others:
                helper.put(partial(copy_context().run, work.do_as_helper))
            work.do()
        finally:
            work.end()
    if work.error is not None:
        raise work.error


class _Work:
    """Calls, each of which is made once, by the first thread that comes to it."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._remaining = iter(calls)
        self._changed = threading.Condition()
        self._at_work = 0
        self.error: BaseException | None = None

    def do(self) -> None:
        while (call := self._next()) is not None:
            call()

    def do_as_helper(self) -> None:
        with self._changed:
            self._at_work += 1
        try:
            self.do()
        except BaseException as error:
            with self._changed:
                self.error = self.error or error
                self._remaining = iter(())
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Begin no further call, and wait for the helpers, also if Ctrl-C comes meanwhile.

        One that has not begun yet will find nothing to do.
        """
        interrupted: BaseException | None = None
        while True:
            try:
                with self._changed:
                    self._remaining = iter(())
                    self._changed.wait_for(lambda: not self._at_work)
                break
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _next(self) -> Call | None:
        with self._changed:
            return next(self._remaining, None)
