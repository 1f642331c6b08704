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
            calls.append(partial(_run_together, parts))
        else:
            calls.append(run(tuple(ops)))

    def run_calls() -> None:
        for call in calls:
            call()

    return run_calls


def _run_together(calls: Sequence[Call]) -> None:
    """Run the calls, each on one of several threads, the caller's one of them.

    When it ends, however it ends, none of them is running. Raises the first error of any of them.
    """
    work = _Work(calls)
    with (
        small_gemm.on_one_thread() as threads,
        helpers(min(threads, len(calls)) - 1) as others,
    ):
        running: list[threading.Event] = []
        try:
            # One by one: after Ctrl-C those that were started are waited for.
            for helper in others:
                started = helper.start(partial(copy_context().run, work.do_noting_errors))
                running.append(started)
            work.do()
        finally:
            work.stop()
            _wait(running)
    if work.error is not None:
        raise work.error


class _Work:
    """Calls, each of which is made once, by the first thread that comes to it."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._remaining = iter(calls)
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def do(self) -> None:
        while (call := self._next()) is not None:
            call()

    def do_noting_errors(self) -> None:
        try:
            self.do()
        except BaseException as error:
            self.error = self.error or error
            self.stop()

    def stop(self) -> None:
        """No further call is begun."""
        with self._lock:
            self._remaining = iter(())

    def _next(self) -> Call | None:
        with self._lock:
            return next(self._remaining, None)


def _wait(running: Iterable[threading.Event]) -> None:
    """Wait for all, also after Ctrl-C: nobody may compute with the arrays afterwards."""
    interrupted: BaseException | None = None
    for event in running:
        while not event.is_set():
            try:
                event.wait()
            except BaseException as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted
