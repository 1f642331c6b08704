"""What each thread of a run does, compiled: it takes parts, runs them and waits for the others."""

from __future__ import annotations

from functools import cache
from typing import Any

from xpnet.accel.cpu import llvm
from xpnet.accel.cpu.compiled import compiled, inlined

LINE = 8
"""int64 numbers in a cache line: what several threads write lies in lines of its own."""

SPINS = 1000
"""Looks at a phase that others have to finish before the thread sleeps: 20 to 50 µs."""

PATIENCE = 300
"""Looks without another thread that completes its own parts, before a thread takes parts of others:
5 to 15 µs. The arrays of a part are in the caches of the core that had it in the step before."""

FUTEX_WAIT, FUTEX_WAKE = 128, 129  # private to the process
ALL = 2**31 - 1

# Places in the block of numbers that the threads share.
FIRST, LAST, PHASES, THREADS = 0, 1, 2, 3
FIRST_PARTS, FIRST_RECORDS, RECORDS = 4, 5, 6  # addresses of the program
CLAIMS, FINISHED = 7, 8  # addresses: the round for which each part is taken; parts finished so far
BEGUN, STOP, SLEEPERS = 9, 10, 11  # addresses of one number each
SYSCALL, FUTEX, TIMEOUT, USLEEP = 12, 13, 14, 15  # address and number of futex, or of `usleep`
JOB_SIZE = 16


@inlined
def _take(job, part, step):
    """Run the part, unless another thread has taken it; returns whether it did."""
    claim, round_ = job[CLAIMS] + 8 * part, step - job[FIRST]
    if llvm.atomic_load(claim) != round_:
        return 0
    if not llvm.atomic_exchange_if(claim, round_, round_ + 1):
        return 0
    first = llvm.int64_pointer(job[FIRST_RECORDS])
    records = llvm.int64_pointer(job[RECORDS])
    for record in range(first[part], first[part + 1]):
        llvm.call_loop(records[2 * record], records[2 * record + 1], step)
    return 1


@inlined
def _sleep(job, finished, found):
    """Sleep until the phase ends, if its number is still `found`, or for a short time."""
    if job[SYSCALL] != 0:
        given = (job[FUTEX], finished, FUTEX_WAIT, found & 0xFFFFFFFF, job[TIMEOUT], 0, 0)
        llvm.call_integers(job[SYSCALL], given)
    else:
        llvm.call_integers(job[USLEEP], (100,))


@inlined
def _wait(job, finished, target):
    for _ in range(SPINS):
        if llvm.atomic_load(finished) >= target:
            return
        llvm.pause()
    llvm.atomic_add(job[SLEEPERS], 1)
    found = llvm.atomic_load(finished)
    while found < target:
        _sleep(job, finished, found)
        found = llvm.atomic_load(finished)
    llvm.atomic_add(job[SLEEPERS], -1)


@inlined
def _wake(job, finished):
    """Wake the threads that sleep until the phase ends."""
    if llvm.atomic_load(job[SLEEPERS]) > 0 and job[SYSCALL] != 0:
        given = (job[FUTEX], finished, FUTEX_WAKE, ALL, 0, 0, 0)
        llvm.call_integers(job[SYSCALL], given)


@inlined
def _ends_soon(finished, target, looks):
    """Whether the phase ends before its number has been the same for so many looks."""
    found, left = llvm.atomic_load(finished), looks
    while found < target and left > 0:
        llvm.pause()
        now = llvm.atomic_load(finished)
        left = left - 1 if now == found else looks
        found = now
    return found >= target


@inlined
def _run_phase(job, phase, step, me, patience):
    """Take own parts; after a while those of others, from their end; wait for the end.

    `patience`: looks before that. Returns how many in the next phase: none if no other thread runs.
    """
    first = llvm.int64_pointer(job[FIRST_PARTS])
    begin, parts = first[phase], first[phase + 1] - first[phase]
    finished = job[FINISHED] + 8 * LINE * phase
    target = (step - job[FIRST] + 1) * parts
    if llvm.atomic_load(finished) >= target:
        return patience
    low, high = me * parts // job[THREADS], (me + 1) * parts // job[THREADS]
    done = 0
    for part in range(low, high):
        done += _take(job, begin + part, step)
    if done > 0 and llvm.atomic_add(finished, done) + done == target:
        _wake(job, finished)
        return patience
    if _ends_soon(finished, target, patience):
        return PATIENCE
    taken = 0
    for i in range(1, parts - (high - low) + 1):
        other = low - i if low >= i else low - i + parts
        taken += _take(job, begin + other, step)
    if taken > 0 and llvm.atomic_add(finished, taken) + taken == target:
        _wake(job, finished)
    else:
        _wait(job, finished, target)
    return 0 if done + taken == parts else PATIENCE


@inlined
def _next_step(job, step):
    """The step to run next, `step` or a later one if others are ahead; or `job[LAST]`: the end.

    `BEGUN` is the step that nobody has begun yet, or -1 - step once the run is stopped before it:
    one thread decides, at its first look, so that all end at the same step.
    """
    if step < job[LAST]:
        after = -1 - step if llvm.atomic_load(job[STOP]) != 0 else step + 1
        llvm.atomic_exchange_if(job[BEGUN], step, after)
    begun = llvm.atomic_load(job[BEGUN])
    if begun < 0:
        return job[LAST]
    return min(max(step, begun - 1), job[LAST])


def _work(job, me):
    step, patience = _next_step(job, job[FIRST]), PATIENCE
    while step < job[LAST]:
        for phase in range(job[PHASES]):
            patience = _run_phase(job, phase, step, me, patience)
        step = _next_step(job, step + 1)


@cache
def work() -> Any:
    """`work().ctypes(job, me)`, called by each thread with its number, compiled."""
    return compiled(_work)
