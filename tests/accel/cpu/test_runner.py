"""Programs on several threads: order, results, stopping, fork, the end of the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from xpnet.accel import helper_threads
from xpnet.accel.cpu import llvm, runner
from xpnet.accel.cpu.compiled import SIGNATURE
from xpnet.accel.cpu.runner import Program, Record


@numba.cfunc(SIGNATURE, nopython=True, error_model="numpy")
def mix(p: Any, step: Any) -> None:
    """x[0] = (x[0] + y[0]) * 5 + step, modulo a number: another order gives another result."""
    x, y = llvm.int64_pointer(p[0]), llvm.int64_pointer(p[1])
    x[0] = ((x[0] + y[0]) * 5 + step) % 1_048_573


@numba.cfunc(SIGNATURE, nopython=True, error_model="numpy")
def linger(p: Any, step: Any) -> None:
    """Work for p[1] rounds; the result in x[0] keeps the compiler from leaving it out."""
    x = llvm.int64_pointer(p[0])
    for i in range(p[1]):
        x[0] = (x[0] * 3 + i) % 1_048_573


def mixing(parts: int, phases: int = 7) -> tuple[Program, np.ndarray]:
    """Each part of a phase mixes a number of its own with another part's of the phase before."""
    numbers = np.arange(parts * (phases + 1), dtype=np.int64).reshape(phases + 1, parts)

    def at(phase: int, part: int) -> int:
        return numbers[phase % (phases + 1) :, part % parts :].ctypes.data

    def record(phase: int, part: int) -> Record:
        return Record(mix.address, np.array([at(phase + 1, part), at(phase, part + 1 + phase)]))

    made = [[[record(phase, part)] for part in range(parts)] for phase in range(phases)]
    # In one part there is an order as well, and the first phase needs what the last one wrote.
    both = [record(phases, part) for part in range(parts)]
    return Program([*made, [both], []]), numbers


def mixed(parts: int, steps: int, phases: int = 7) -> np.ndarray:
    """The numbers of `mixing`, in plain Python."""
    numbers = np.arange(parts * (phases + 1), dtype=np.int64).reshape(phases + 1, parts)
    for step in range(steps):
        for phase in range(phases + 1):
            for part in range(parts):
                to = (phase + 1) % (phases + 1), part
                other = numbers[phase, (part + 1 + phase) % parts]
                numbers[to] = ((numbers[to] + other) * 5 + step) % 1_048_573
    return numbers


@pytest.mark.parametrize("parts", [1, 2, 5, 16])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_step_runs_its_phases_in_order_and_each_part_once(parts: int, threads: int) -> None:
    program, numbers = mixing(parts)
    assert program.run(0, 400, threads) == program.next_step == 400
    np.testing.assert_array_equal(numbers, mixed(parts, 400))


def test_a_run_goes_on_where_another_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SLICE_SECONDS", 1e-5)
    program, numbers = mixing(4)
    for first, last, threads in [(0, 1, 2), (1, 50, 1), (50, 50, 4), (50, 300, 4)]:
        assert program.run(first, last, threads) == last
    np.testing.assert_array_equal(numbers, mixed(4, 300))


def test_threads_that_sleep_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.zeros(2, np.int64)
    slow = Record(linger.address, np.array([numbers.ctypes.data, 300_000]))
    quick = Record(mix.address, np.array([numbers[1:].ctypes.data] * 2))
    program = Program([[[slow], [quick]], [[quick]]])
    assert program.run(0, 40, 3) == 40
    expected = 0
    for step in range(40):
        for _ in range(2):
            expected = (expected * 10 + step) % 1_048_573
    assert numbers[1] == expected


def test_without_futexes_threads_sleep_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    usleep = runner._waiting()[2]
    monkeypatch.setattr(runner, "_waiting", lambda: (0, 0, usleep))
    program, numbers = mixing(3)
    program.run(0, 200, 3)
    np.testing.assert_array_equal(numbers, mixed(3, 200))
    test_threads_that_sleep_are_woken(monkeypatch)


def test_two_runs_at_once() -> None:
    made = [mixing(16) for _ in range(3)]
    threads = [threading.Thread(target=p.run, args=(0, 3000, 2)) for p, _ in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = mixed(16, 3000)
    for _, numbers in made:
        np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_stop_ends_a_run_after_a_step(threads: int) -> None:
    program, numbers = mixing(5)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(program.run(0, 10**9, threads)))
    thread.start()
    while program.next_step < 100:
        time.sleep(0.001)
    program.stop()
    thread.join()
    assert 100 <= ended[0] < 10**9
    before = numbers.copy()
    assert program.run(ended[0], ended[0] + 1, 1) == ended[0] + 1
    after, other = numbers.copy(), mixing(5)
    other[0].run(0, ended[0], 1)
    np.testing.assert_array_equal(before, other[1])
    other[0].run(ended[0], ended[0] + 1, 1)
    np.testing.assert_array_equal(after, other[1])


def test_ctrl_c_ends_a_run_between_steps() -> None:
    program, numbers = mixing(5)
    main = threading.get_ident()

    def interrupt() -> None:
        while program.next_step < 100:
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        program.run(0, 10**12, 2)
    thread.join()
    steps = program.next_step
    program, expected = mixing(5)
    program.run(0, steps, 1)
    np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("interrupted", [0, 20, 21])
def test_after_ctrl_c_no_helper_is_at_work(
    interrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes when the helpers have begun, and the caller has not."""
    calls, put = iter(range(1000)), helper_threads.Helper.put

    def interrupting(self: helper_threads.Helper, call: Any) -> None:
        put(self, call)
        if next(calls) == interrupted:
            time.sleep(0.002)
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "SLICE_SECONDS", 0.05)
    program, numbers = mixing(5)
    with monkeypatch.context() as patch:
        patch.setattr(helper_threads.Helper, "put", interrupting)
        with pytest.raises(KeyboardInterrupt):
            program.run(0, 10**12, 3)
    steps = program.next_step
    assert steps < 10**9
    other, expected = mixing(5)
    other.run(0, steps, 1)
    np.testing.assert_array_equal(numbers, expected)
    time.sleep(0.05)
    np.testing.assert_array_equal(numbers, expected)
    program.run(steps, steps + 100, 3)
    other.run(steps, steps + 100, 1)
    np.testing.assert_array_equal(numbers, expected)


def test_helpers_are_kept_for_the_next_run() -> None:
    def helpers() -> set[str]:
        threads = threading.enumerate()
        return {str(thread.ident) for thread in threads if thread.name == "xpnet helper"}

    program, _ = mixing(3)
    program.run(0, 10, 4)
    before = helpers()
    assert len(before) >= 3
    for _ in range(20):
        program.run(0, 10, 4)
    assert helpers() == before


def test_a_run_does_not_wait_for_a_thread_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper_threads.Helper, "put", lambda *_: None)
    program, numbers = mixing(5)
    assert program.run(0, 300, 4) == 300
    np.testing.assert_array_equal(numbers, mixed(5, 300))


def test_a_thread_that_comes_late_finds_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Any] = []
    put = helper_threads.Helper.put
    monkeypatch.setattr(runner, "SLICE_SECONDS", 1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(helper_threads.Helper, "put", lambda *given: late.append(given))
        program, numbers = mixing(5)
        program.run(0, 300, 4)
    expected = mixed(5, 300)
    for given in late:
        put(*given)
    program.run(300, 301, 4)  # the same helpers, after what they were late for
    assert not (numbers == expected).all()
    np.testing.assert_array_equal(numbers, mixed(5, 301))


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from test_runner import *

program, numbers = mixing(4)
program.run(0, 300, 3)
{rest}
"""


def in_a_new_interpreter(rest: str) -> str:
    program = PROGRAM.format(path=[str(Path(__file__).parent), *sys.path], rest=rest)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows lacks")
def test_a_forked_child_has_threads_of_its_own() -> None:
    rest = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork and threads
child = os.fork()
program.run(300, 600, 3)
assert (numbers == mixed(4, 600)).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""
    assert in_a_new_interpreter(rest) == "both\n"


def test_threads_end_with_the_interpreter() -> None:
    assert in_a_new_interpreter("print('end')") == "end\n"


def test_a_run_in_a_daemon_thread_ends_with_the_interpreter() -> None:
    rest = """
other, _ = mixing(4)
threading.Thread(target=other.run, args=(0, 10**12, 2), daemon=True).start()
while other.next_step < 100:
    time.sleep(0.001)
print("end")
"""
    assert in_a_new_interpreter(rest) == "end\n"
