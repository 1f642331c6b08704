"""Parts of a step that threads run at the same time.

Some operations of a recorded step belong to a part of the batch (`part`): those of one part read no
array that another part writes. Neighbouring parts are run by several threads, each by one of them,
while NumPy and the kernels work outside the interpreter; everything else runs before or after them.
The results do not depend on the number of threads: each part has the same operations and arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from itertools import groupby

from xpnet.accel import small_gemm
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
            calls.append(_Together(parts))
        else:
            calls.append(run(tuple(ops)))

    def run_calls() -> None:
        for call in calls:
            call()

    return run_calls


class _Together:
    """Runs several calls, each on one of several threads, the caller's one of them."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._helpers: ThreadPoolExecutor | None = None
        self._made: tuple[int, int] = 0, 0

    def __call__(self) -> None:
        with small_gemm.on_one_thread() as threads:
            helpers = min(threads, len(self._calls)) - 1
            remaining = iter(self._calls)
            futures = [self._submit(helpers, remaining) for _ in range(helpers)]
            try:
                _run_each(remaining)
            finally:
                for future in futures:
                    future.exception()  # waits
            for future in futures:
                future.result()

    def _submit(self, helpers: int, remaining: Iterator[Call]) -> Future[None]:
        # A forked child has none of the threads of its parent.
        made = os.getpid(), helpers
        if self._helpers is None or self._made != made:
            self._helpers = ThreadPoolExecutor(helpers, thread_name_prefix="xpnet part")
            self._made = made
        return self._helpers.submit(copy_context().run, _run_each, remaining)


def _run_each(remaining: Iterator[Call]) -> None:
    # A tuple's iterator gives each call to one thread only: `next` holds the interpreter's lock.
    for call in remaining:
        call()
