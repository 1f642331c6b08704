"""Runs a program of compiled loops for many steps on several threads, outside the interpreter.

A `Program` is a list of phases, which run in order in each step; a phase has parts, which may run
at the same time; a part is a list of records, which one thread runs in order. A record is the
address of a compiled `void loop(int64 *arguments, int64 step)` and its arguments. Results depend on
the cut into parts alone, not on the number of threads or on which of them runs a part.

A thread takes the parts that are its own, so that their arrays stay in the caches of its core, and
then, after some microseconds, those which nobody has begun. A phase ends when all of its
parts are done. So no thread waits long for one without a core: on a busy machine fewer do more.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from xpnet.accel.cpu.threads import (
    BEGUN,
    CLAIMS,
    FINISHED,
    FIRST,
    FIRST_PARTS,
    FIRST_RECORDS,
    FUTEX,
    JOB_SIZE,
    LAST,
    LINE,
    PHASES,
    RECORDS,
    SLEEPERS,
    STOP,
    SYSCALL,
    THREADS,
    TIMEOUT,
    USLEEP,
    work,
)
from xpnet.accel.helper_threads import helpers
from xpnet.backend import HostArray

SLICE_SECONDS = 0.1
"""Time between returns to the interpreter, which then handles Ctrl-C."""


@dataclass(frozen=True)
class Record:
    """A loop and its arguments: `(n,)` int64, which must not be changed while the program runs."""

    address: int
    arguments: HostArray


Part: TypeAlias = Sequence[Record]


class Program:
    """Phases, each a list of parts, each a list of records."""

    def __init__(self, phases: Sequence[Sequence[Part]]) -> None:
        parts = [part for phase in phases for part in phase]
        records = [record for part in parts for record in part]
        # The arrays stay alive with the program, which holds nothing but their addresses.
        self._arguments = [np.ascontiguousarray(record.arguments, np.int64) for record in records]
        addresses = zip(records, self._arguments, strict=True)
        pairs = [(record.address, array.ctypes.data) for record, array in addresses]
        self.records = np.array(pairs, np.int64).reshape(-1, 2)
        self.first_records = _offsets(parts)
        self.first_parts = _offsets(phases)
        self._run: _Run | None = None
        self._slice = 1
        """Steps between two returns to the interpreter, from the time of the last ones."""
        self.job = np.zeros(JOB_SIZE, np.int64)
        self.job[PHASES] = len(phases)
        self.job[FIRST_PARTS] = self.first_parts.ctypes.data
        self.job[FIRST_RECORDS] = self.first_records.ctypes.data
        self.job[RECORDS] = self.records.ctypes.data
        self.job[TIMEOUT] = _TIMEOUT.ctypes.data
        self.job[[SYSCALL, FUTEX, USLEEP]] = _waiting()

    def run(self, first: int, last: int, threads: int) -> int:
        """Run steps `first` to `last - 1` on `threads` threads, the caller's one of them.

        Returns the step after the last one that was run, which is `last` unless `stop` was called.
        After an exception, such as `KeyboardInterrupt`, it is `next_step`; no thread is at work.
        """
        self._run = run = _Run(self, first, threads)
        work()
        job: _Job | None = None
        with _runs.entered(run), helpers(threads - 1) as others:
            try:
                while run.next_step < last and not run.is_stopped():
                    begun, start = run.next_step, time.perf_counter()
                    job = run.until(min(run.next_step + self._slice, last))
                    for number, helper in enumerate(others, 1):
                        helper.put(partial(job.do, number))
                    job.do(0)
                    seconds = time.perf_counter() - start
                    more = min(8.0, SLICE_SECONDS / max(seconds, 1e-9))
                    self._slice = max(1, int((run.next_step - begun) * more))
            except BaseException:
                _end_now(run, job)
                raise
        return run.next_step

    def reset(self) -> None:
        """Forget the last `run`: `next_step` is 0."""
        self._run = None

    @property
    def next_step(self) -> int:
        """The step after the last one that `run` has run."""
        return 0 if self._run is None else self._run.next_step

    def stop(self) -> None:
        """End `run`, which another thread has called, after the step that it is in."""
        if self._run is not None:
            self._run.stop()


def _offsets(lists: Sequence[Sequence[Any]]) -> HostArray:
    """Where each list begins if they are joined, and the end."""
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


class _Run:
    """What the threads of one call of `Program.run` share."""

    def __init__(self, program: Program, first: int, threads: int) -> None:
        parts, phases = len(program.first_records) - 1, len(program.first_parts) - 1
        self._program = program  # whose arrays a thread that is late still reads
        memory = np.zeros((4 + phases) * LINE + parts, np.int64)
        self._memory = memory[-memory.ctypes.data % (8 * LINE) // 8 :]  # begins with a cache line
        self._begun, self._stop = self._memory[:1], self._memory[LINE : LINE + 1]
        self._begun[0] = first
        self._job = job = program.job.copy()
        job[FIRST], job[LAST], job[THREADS] = first, first, threads
        start = self._memory.ctypes.data
        for line, place in enumerate((BEGUN, STOP, SLEEPERS, FINISHED)):
            job[place] = start + 8 * LINE * line
        job[CLAIMS] = start + 8 * LINE * (3 + phases)

    @property
    def next_step(self) -> int:
        """The step that nobody has begun; those before it are done when no thread is at work."""
        begun = int(self._begun[0])
        return begun if begun >= 0 else -1 - begun

    def stop(self) -> None:
        self._stop[0] = 1

    def is_stopped(self) -> bool:
        return bool(self._stop[0])

    def until(self, last: int) -> _Job:
        """The job of running all steps before `last`."""
        job = self._job.copy()
        job[LAST] = last
        return _Job(self, job)


@dataclass(frozen=True)
class _Job:
    """What a thread does once: its part of some steps of a run."""

    run: _Run
    numbers: HostArray

    def do(self, me: int) -> None:
        _work()(self.numbers.ctypes.data, me)


def _end_now(run: _Run, job: _Job | None) -> None:
    """End a run whose helpers may be at work, after the step that they are in."""
    while True:
        try:
            run.stop()
            if job is not None:
                job.do(0)
            return
        except KeyboardInterrupt:  # again; the one that came first is raised
            continue


class _Runs:
    """The runs of this process, which are stopped at the end of the interpreter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Run] = set()
        self._have_ended = False

    @contextmanager
    def entered(self, run: _Run) -> Iterator[None]:
        """In the block `run` is one of them; after the interpreter's end it is stopped at once."""
        with self._lock:
            self._running.add(run)
            if self._have_ended:
                run.stop()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(run)

    def end(self) -> None:
        with self._lock:
            self._have_ended = True
            for run in self._running:
                run.stop()


@cache
def _work() -> Any:
    """`work()` as a C function of the address of the numbers: a pointer would be in a cycle."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(work().address)


_TIMEOUT = np.array([0, 10_000_000], np.int64)
"""Seconds and nanoseconds after which a thread that sleeps looks again."""

_FUTEX = {"x86_64": 202, "aarch64": 98}
_runs = _Runs()


def _start_anew() -> None:
    """In a forked child there are no runs of other threads."""
    global _runs
    _runs = _Runs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@atexit.register
def _end() -> None:
    # Before the helpers end, which are waited for: their module was imported earlier.
    _runs.end()


@cache
def _waiting() -> tuple[int, int, int]:
    """Address of `syscall` and number of futex, or 0 and 0; and the address of `usleep`."""
    library = ctypes.CDLL(None)

    def address(name: str) -> int:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0

    number = _FUTEX.get(platform.machine(), 0) if sys.platform == "linux" else 0
    return (address("syscall") if number else 0), number, address("usleep")
